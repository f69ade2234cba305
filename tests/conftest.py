"""Fixtures for every test."""

from servers import (
    moto_server,
    moto_url,
    rclone_server,
    rclone_url,
    seaweed_server,
    seaweed_url,
)

__all__ = ["moto_server", "moto_url", "rclone_server", "rclone_url", "seaweed_server", "seaweed_url"]
