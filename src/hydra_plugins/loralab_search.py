"""Where Hydra looks for plugins: the search of loralab."""

from loralab.command import search


class Search(search.Search):
    """See loralab.command.search."""
