# modelhub without torch: scan, inspect, convert, intake and the catalog.
#
#     docker build -t modelhub .
#     docker run --rm --network none --read-only --tmpfs /tmp -v "$PWD:/models:ro" modelhub scan .

FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY modelhub modelhub
RUN python -m venv /opt/modelhub \
    && /opt/modelhub/bin/python -m pip install --no-cache-dir --disable-pip-version-check -c constraints.txt . \
    && /opt/modelhub/bin/python -m pip uninstall --yes pip

FROM python:3.13-slim
COPY --from=build /opt/modelhub /opt/modelhub
RUN useradd --uid 10001 --create-home modelhub
ENV PATH=/opt/modelhub/bin:$PATH
USER 10001:10001
WORKDIR /models
ENTRYPOINT ["modelhub"]
CMD ["--help"]
