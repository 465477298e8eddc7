"""The families that tests see are the package's own."""

from loralab.models import registry
from tests.support import own_flow

del registry.FAMILIES[own_flow.ROW.name]  # importing it registers it, and its pattern matches Z-Image's files
