"""Fixtures for every test."""

from browsing import browser, shared, watched
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
    "moto_server",
    "moto_url",
    "rclone_server",
    "rclone_url",
    "seaweed_server",
    "seaweed_url",
    "shared",
    "watched",
]
