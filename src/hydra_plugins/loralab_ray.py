"""Where Hydra looks for plugins: the launcher of loralab for Ray."""

from loralab.command import ray_launcher


class RayLauncher(ray_launcher.RayLauncher):
    """See loralab.command.ray_launcher."""
