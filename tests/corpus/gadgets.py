"""Callables that published attacks and advisories have used, and what the advisories are called.

One line each: module, name, and the advisories where there are any. Sources: the advisories of picklescan and fickling
on GitHub, CVE-2026-56315, the CVE-2026-22606 to 22612 family, and the modules of the standard library read for what
they call with their arguments.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.pickles.assemble import called, text

_LINES = """
__builtin__ apply
__builtin__ execfile
__builtin__ file
__builtin__ reduce
_aix_support _read_cmd_output GHSA-g38g-8gr9-h9xp CVE-2026-56315 GHSA-5hwf-rc88-82xm
_bootsubprocess Popen
_codecs lookup
_ctypes dlopen
_frozen_importlib _call_with_frames_removed
_frozen_importlib_external SourceFileLoader
_imp load_dynamic
_io FileIO
_operator attrgetter GHSA-46h3-79wf-xr6c
_operator methodcaller GHSA-955r-x9j8-7rhh
_osx_support _read_output GHSA-g38g-8gr9-h9xp CVE-2026-56315 GHSA-5hwf-rc88-82xm
_osx_support _find_build_tool GHSA-g38g-8gr9-h9xp CVE-2026-56315
_pickle loads
_posixsubprocess fork_exec GHSA-m6fh-58r7-x697
_pyrepl.pager pipe_pager GHSA-g38g-8gr9-h9xp CVE-2026-56315
_signal raise_signal
_socket socket
_thread start_new_thread
_xxsubinterpreters run_string GHSA-6ggj-6f2q-f7mx
_interpreters exec GHSA-6ggj-6f2q-f7mx
aiohttp.client ClientSession
antigravity geohash
argparse FileType
ast literal_eval
asyncio run_coroutine_threadsafe
asyncio.base_events BaseEventLoop
asyncio.subprocess create_subprocess_shell
asyncio.unix_events _UnixSubprocessTransport._start GHSA-q77w-mwjj-7mqx GHSA-f7qq-56ww-84cr CVE-2025-10157
atexit register GHSA-m6fh-58r7-x697
bdb Bdb.run
boto3 client
builtins __import__ GHSA-h4rm-mm56-xf63 CVE-2026-22612
builtins breakpoint
builtins compile
builtins delattr
builtins eval GHSA-h4rm-mm56-xf63 CVE-2026-22612
builtins exec
builtins getattr
builtins globals
builtins input
builtins map
builtins memoryview
builtins open
builtins setattr
builtins type
builtins vars
bz2 open
copy _reconstruct
cProfile run GHSA-49gj-c84q-6qm9 GHSA-p523-jq9w-64x9 CVE-2026-22607
cProfile runctx GHSA-9w88-8rmg-7g2p
cgitb lookup
cloudpickle loads
cloudpickle.cloudpickle _make_function
cloudpickle.cloudpickle subimport
code InteractiveInterpreter.runcode GHSA-cj3c-v495-4xqh
code interact
codecs open
codeop compile_command
collections namedtuple.__globals__
commands getoutput
compileall compile_file
concurrent.futures.process ProcessPoolExecutor
contextlib ExitStack.callback
copyreg add_extension
crypt crypt
ctypes CDLL GHSA-4675-36f9-wf6r GHSA-5hvc-6wx8-mvv4 CVE-2026-22608
ctypes.util find_library
curses wrapper
dataclasses _create_fn
dataclasses make_dataclass
dbm open
dill loads
dis dis
distutils.file_util write_file GHSA-m273-6v24-x4m4 CVE-2025-71321
distutils.spawn spawn
docker from_env
doctest debug_script GHSA-fqq6-7vqf-w3fg
doctest run_docstring_examples
ensurepip _run_pip GHSA-xp4f-hrf8-rxw7
enum _EnumDict
fabric Connection
faulthandler _sigsegv
fcntl ioctl
fickling.hook remove_hook
filecmp cmp
fileinput input
ftplib FTP
functools partial
functools reduce
gc get_objects
glob glob
gzip open
http.client HTTPSConnection
http.server test
httplib HTTPSConnection
httpx get
huggingface_hub hf_hub_download
idlelib.autocomplete AutoComplete.fetch_completions GHSA-7cq8-mj8x-j263
idlelib.autocomplete AutoComplete.get_entity GHSA-6w4w-5w54-rjvr
idlelib.calltip Calltip.fetch_tip GHSA-8r4j-24qv-fmq9
idlelib.calltip get_entity GHSA-9xph-j2h6-g47v
idlelib.debugobj ObjectTreeItem.SetText GHSA-3vg9-h568-4w9m
idlelib.pyshell ModifiedInterpreter.runcode GHSA-3gf5-cxq9-w223
idlelib.pyshell ModifiedInterpreter.runcommand GHSA-j343-8v2j-ff7w
idlelib.run Executive.runcode GHSA-m869-42cg-3xwr
imaplib IMAP4_stream GHSA-g38g-8gr9-h9xp CVE-2026-56315
imp load_source
importlib import_module GHSA-q5qq-mvfm-j35x CVE-2026-22609
importlib reload
importlib.machinery SourceFileLoader
importlib.util spec_from_file_location
inspect getattr_static
invoke run
io open
io open_code
IPython embed
itertools starmap
jinja2 Template
joblib load
joblib.numpy_pickle load
jsonpickle decode
keras.models load_model CVE-2024-3660 CVE-2025-1550
lib2to3.pgen2.grammar Grammar.loads GHSA-f54q-57x4-jg88
lib2to3.pgen2.pgen ParserGenerator.make_label GHSA-p9w7-82w4-7q8m
linecache getlines
llvmlite.binding load_library_permanently
logging FileHandler
logging.config fileConfig
logging.config dictConfig
lzma open
mailcap findmatch
marshal loads GHSA-565g-hwwr-4pp3 CVE-2025-67747
mimetypes init
mlflow.projects.backend.local _run_entry_point
mmap mmap
modelaudit.cli main
modelscan.modelscan ModelScan
modulefinder ModuleFinder.run_script
multiprocessing Process
multiprocessing.reduction steal_handle
multiprocessing.util spawnv_passfds GHSA-q5qq-mvfm-j35x CVE-2026-22609
netrc netrc
nntplib NNTP
nt system
ntpath realpath
numba jit
numexpr evaluate CVE-2023-39631
numpy DataSource
numpy fromfile
numpy load
numpy memmap
numpy vectorize
numpy.core._multiarray_umath _load_from_filelike
numpy.ctypeslib load_library
numpy.distutils.exec_command exec_command
numpy.f2py compile
numpy.f2py.capi_maps load_f2cmap_file
numpy.f2py.crackfortran _eval_length
numpy.f2py.crackfortran getlincoef GHSA-r8g5-cgf2-4m4m
numpy.f2py.crackfortran myeval
numpy.f2py.crackfortran param_eval
numpy.f2py.diagnose run_command
numpy.lib.npyio NpzFile
numpy.testing rundocs
numpy.testing._private.utils runstring
operator attrgetter
operator call
operator itemgetter
operator methodcaller GHSA-84r2-jw7c-4r5q
os execv
os popen
os putenv
os remove
os spawnl
os startfile
os system
os symlink
pandas ExcelFile
pandas read_csv
pandas read_json
pandas read_pickle
pandas.core.computation.eval eval
pandas.io.parsers.readers read_csv
pandas.io.pickle read_pickle
paramiko SSHClient
pathlib Path.unlink
pathlib Path.write_text
pdb run
pdb Pdb.runeval
pexpect run
pickle loads
pickle _loads
pickle Unpickler
picklescan.scanner scan_file_path
pip main GHSA-655q-fx9r-782v CVE-2025-1716
pip._internal main GHSA-655q-fx9r-782v CVE-2025-1716
pip._internal.cli.main main GHSA-655q-fx9r-782v CVE-2025-1716
pipes Template
pipes Template.copy
pkgutil resolve_name GHSA-vvpj-8cmc-gx39
platform popen
platform _syscmd_file
plistlib load
popen2 popen3
posix system
posixpath expandvars
profile Profile.run GHSA-x696-vm39-cp64
profile Profile.runctx GHSA-6vqj-c2q5-j97w
profile run GHSA-7wx9-6375-f5wh
psutil Popen
pstats Stats
pty spawn GHSA-vqmv-47xg-9wpr GHSA-hgrh-qx5j-jfwx GHSA-r7v6-mfhq-g3m2 CVE-2025-67748
py_compile compile
pyclbr readmodule
pydantic _dynamic_imports
pydoc locate GHSA-84r2-jw7c-4r5q GHSA-5hvc-6wx8-mvv4 CVE-2026-22608
pydoc pipepager
pydoc safeimport
queue Queue
random _os.system
ray remote
readline read_init_file
requests get
requests.api get
rlcompleter Completer
runpy _run_code
runpy run_module
runpy run_path GHSA-wfq2-52f7-7qvj CVE-2026-22606
runpy _run_module_code
scipy.io.matlab loadmat
scipy.stats._distn_infrastructure rv_continuous
scipy.weave inline
select poll
sched scheduler
setuptools setup
setuptools._distutils.spawn spawn
shelve open
shutil copyfile
shutil move
shutil rmtree
signal signal GHSA-mhc9-48gj-9gp3
site addpackage GHSA-m6fh-58r7-x697
site execsitecustomize
smtplib SMTP GHSA-mhc9-48gj-9gp3
socket create_connection
socketserver TCPServer GHSA-mhc9-48gj-9gp3
sqlite3 connect GHSA-mhc9-48gj-9gp3
ssl get_server_certificate
string Formatter
subprocess Popen
subprocess check_output
subprocess getoutput
subprocess run
sympy sympify
sys exit
sys modules
sys setprofile
sysconfig get_config_vars
tarfile open
telnetlib Telnet
tempfile mktemp
tensorflow.keras.models load_model CVE-2024-3660
test.support.script_helper assert_python_ok GHSA-g38g-8gr9-h9xp CVE-2026-56315
threading Thread
timeit main
timeit repeat
timeit timeit GHSA-v7x6-rv5q-mhwc CVE-2025-71351
tkinter Tk
torch compile
torch load
torch from_file
torch._C _jit_compile
torch._dynamo.guards GuardBuilder.get GHSA-86cj-95qr-2p4f
torch._inductor.codecache compile_file
torch._inductor.codecache PyCodeCache.load
torch._utils _import_dotted_name
torch.distributed.rpc rpc_sync CVE-2024-5480
torch.distributed.rpc.api remote CVE-2024-48063
torch.fx.experimental.symbolic_shapes ShapeEnv.evaluate_guards_expression GHSA-f4x7-rfwp-v3xw
torch.fx.graph_module reduce_graph_module
torch.hub load
torch.jit load
torch.jit.annotations parse_type_line CVE-2022-45907
torch.jit.unsupported_tensor_ops execWrapper GHSA-vr7h-p6mm-wpmh
torch.library torch.utils.collect_env.run
torch.package PackageImporter
torch.serialization load
torch.serialization _legacy_load
torch.utils._config_module ConfigModule.load_config GHSA-vv6j-3g6g-2pvj
torch.utils.bottleneck.__main__ run_autograd_prof GHSA-4whj-rm5r-c2v8
torch.utils.bottleneck.__main__ run_cprofile GHSA-4r9r-ch6f-vxmx
torch.utils.collect_env run GHSA-f745-w6jp-hpxx
torch.utils.collect_env run_and_read_all GHSA-jhph-76pp-mggw
torch.utils.cpp_extension load_inline
torch.utils.data.datapipes.utils.decoder basichandlers GHSA-h3qp-7fh3-f8h4
trace Trace.run GHSA-5qwp-399c-mjwf
trace Trace.runctx GHSA-g344-hcph-8vgg
transformers.dynamic_module_utils get_class_from_dynamic_module
turtle onclick
types CodeType GHSA-565g-hwwr-4pp3 CVE-2025-67747
types FunctionType GHSA-565g-hwwr-4pp3 CVE-2025-67747
typing _eval_type
typing ForwardRef
typing get_type_hints
unittest.mock patch
urllib urlopen
urllib.request urlopen
urllib.request urlretrieve
urllib2 urlopen
uu decode
ultralytics YOLO
uuid _get_command_stdout GHSA-g38g-8gr9-h9xp CVE-2026-56315 GHSA-5hwf-rc88-82xm
uuid _popen
venv create
weakref finalize
webbrowser open
webbrowser BackgroundBrowser
wsgiref.simple_server make_server
xml.sax.saxutils prepare_input_source
xmlrpc.client ServerProxy
yaml load
yaml unsafe_load
zipapp create_archive
zipfile ZipFile
zipimport zipimporter
"""


@dataclass(frozen=True, slots=True)
class Gadget:
    """A callable that does what no data needs, and the ids of the advisories that speak of it."""

    module: str
    name: str
    advisories: tuple[str, ...] = ()

    @property
    def qualified(self) -> str:
        return f"{self.module}.{self.name}"

    @property
    def program(self) -> bytes:
        """A pickle that calls it with the text ``"true"``, in the oldest protocol that can name it."""
        if "." not in self.name:
            return b"\x80\x02" + called(self.module, self.name, text("true")) + b"."
        return b"\x80\x04" + text(self.module) + text(self.name) + b"\x93" + text("true") + b"\x85R."


GADGETS = tuple(Gadget(module, name, tuple(ids)) for module, name, *ids in map(str.split, _LINES.split("\n")[1:-1]))
"""Every gadget, by module."""
