"""The journal goes on when the process may open no more files."""

from tests.journal.children import run_child

STARVED = """
    import resource
    from segsrv.journal.log import SegmentLog

    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    log = SegmentLog(
        Path(sys.argv[1]), segment_bytes_max=1, disk_free_bytes_min=0, is_synced=True
    )
    log.append(payload(0), 1)

    def starve():
        taken = []
        while True:
            try:
                taken.append(os.dup(0))
            except OSError:
                return taken
"""


class TestOpenFiles:
    def test_connections_that_take_every_file(self, tmp_path):
        """New segments are begun and read while others take each file that becomes free."""
        printed = run_child(
            STARVED
            + """
    for number in range(1, 20):
        starve()
        log.append(payload(number), 1)
        starve()
        assert len(drain(log)) == number + 1
    print(len(log.segments), log.damaged_frames)
""",
            tmp_path,
        )

        assert printed.split() == ["20", "0"]

    def test_a_disk_that_refuses_meanwhile(self, tmp_path):
        """A write that failed gives its file's place to the next one."""
        printed = run_child(
            STARVED
            + """
    import pytest
    from segsrv.errors import JournalFault
    from tests.journal.segment_logs import refuse_syncs

    for number in range(1, 10):
        starve()
        log.writer.has_dsync = number % 2
        with pytest.MonkeyPatch.context() as patch:
            refuse_syncs(patch)
            with pytest.raises(JournalFault, match="Input/output error"):
                log.append(payload(100), 1)
        starve()
        log.append(payload(number), 1)
    print(drain(log) == [payload(number) for number in range(10)])
""",
            tmp_path,
        )

        assert printed.split() == ["True"]

    def test_files_are_given_back(self, tmp_path):
        """A log that is closed keeps no file open, whatever happened to it."""
        printed = run_child(
            STARVED
            + """
    log.close()
    before = len(os.listdir("/proc/self/fd"))
    for number in range(3):
        log = SegmentLog(log.directory, segment_bytes_max=1, disk_free_bytes_min=0, is_synced=True)
        taken = starve()
        log.append(payload(number), 1)
        drain(log)
        for fd in taken:
            os.close(fd)
        log.close()
    print(len(os.listdir("/proc/self/fd")) - before)
""",
            tmp_path,
        )

        assert printed.split() == ["0"]
