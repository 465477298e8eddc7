"""From a command line to a composed and checked configuration, before anything heavy is imported."""
