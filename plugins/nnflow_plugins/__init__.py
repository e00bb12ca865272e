"""The built-in analyses: plugins like any stranger's, one idea a file."""
