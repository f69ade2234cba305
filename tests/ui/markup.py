"""Texts that are markup."""

HOSTILE = "<script>document.title = 'taken'</script><img src=x onerror=alert(1)> & more"
"""Text that must be read, and not become part of a page."""
CLOSING = "</script><b>broken out</b>"
