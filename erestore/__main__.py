"""``python -m erestore``."""

from erestore.cli.main import main

main()
