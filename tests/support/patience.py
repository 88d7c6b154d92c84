"""How long tests wait for what is to come: whatever the machine, only what hangs takes longer."""

HANG_SEC = 900.0
SOON_SEC = 120.0  # bounds what takes a second or two where nothing else runs, and far less than what would hang
