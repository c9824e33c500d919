"""What a run needs and what there is."""

from pathlib import Path

from bp_plan.preflight import Disk, Preflight


def test_a_disk_without_room_is_told():
    disk = Disk(Path("/somewhere"), 10**9, {"checkpoints": 2 * 10**9, "adapter": 10**8})
    found = Preflight(None, None, None, False, (disk,), {}, None)
    (warning,) = found.warnings()
    assert "/somewhere" in warning and "1.00 GB free" in warning and "checkpoints 2.00 GB" in warning
    assert "not known" in found.message()
