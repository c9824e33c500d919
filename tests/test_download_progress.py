"""A download tells its bytes, and draws no bars of its own."""

from concurrent.futures import ThreadPoolExecutor

try:
    from huggingface_hub.utils.tqdm import hf_thread_map
except ImportError:  # before 1.28
    from tqdm.contrib.concurrent import thread_map as hf_thread_map

from backpropagate.models.download_progress import bytes_told
from bp_core.events import Progress


def test_bytes_are_told_and_nothing_is_drawn(capfd):
    told = []
    bar = bytes_told("download owner/name", told.append)
    arrived, written = (bar(desc=desc, total=0, initial=0, unit="B", unit_scale=True) for desc in "ab")
    arrived.total = written.total = 100
    arrived.update(40)
    written.update(30)
    arrived.update(60)
    assert told == [Progress("download owner/name", 40, 100, "B"), Progress("download owner/name", 100, 100, "B")]
    assert capfd.readouterr() == ("", "")


def test_the_count_of_files_is_not_taken_for_bytes(capfd):
    told = []
    bar = bytes_told("download owner/name", told.append)
    hf_thread_map(lambda number: number, range(5), desc="Fetching", max_workers=2, tqdm_class=bar)
    assert told == [] and capfd.readouterr() == ("", "")


def test_threads_may_tell_at_once():
    told = []
    bar = bytes_told("x", told.append)(total=1000, unit="B")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: bar.update(10), range(100)))
    assert told[-1] == Progress("x", 1000, 1000, "B") and [p.done for p in told] == sorted(p.done for p in told)
