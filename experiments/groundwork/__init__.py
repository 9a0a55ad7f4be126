"""What all commands stand on: the recipe, options, the machine, the files of a run, the console."""
