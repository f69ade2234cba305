"""Fixtures for every test."""

from browsing import browser, loaded, shown, tab, watched, watched_alone
from servers import (
    moto_server,
    moto_url,
    rclone_server,
    rclone_url,
    seaweed_server,
    seaweed_url,
)

__all__ = [
    "browser",
    "loaded",
    "moto_server",
    "moto_url",
    "rclone_server",
    "rclone_url",
    "seaweed_server",
    "seaweed_url",
    "shown",
    "tab",
    "watched",
    "watched_alone",
]
