"""How long tests wait for what is to come: whatever the machine, only what hangs takes longer."""

HANG_SEC = 900.0
