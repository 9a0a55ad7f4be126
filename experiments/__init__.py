"""The jobs around the library: configuration, command lines, files and figures."""
