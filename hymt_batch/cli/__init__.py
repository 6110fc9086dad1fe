"""From a command line to settings: overrides, sweep points, help, completion and the checks across stages."""
