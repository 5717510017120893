"""One file per subject; each rule turns what a reader stated into findings. Rule ids never change their meaning."""
