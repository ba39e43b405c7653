"""The page of a report holds everything that it shows."""

from pathlib import Path

from rich.table import Table

from reporting.drawing import figure_of
from reporting.page import ReportPage


def test_a_page_needs_nothing_beside_it(tmp_path: Path) -> None:
    page = ReportPage("sybil bench", "a <pair>", tmp_path)
    page.add_tables([Table("arm & speed")])
    page.add_plot("Throughput", "throughput.png", figure_of()[0])
    page.add_values("Settings", {"slo": "ttft<1s"})
    written = page.write().read_text()
    assert "a &lt;pair&gt;" in written
    assert "arm &amp; speed" in written
    assert "ttft&lt;1s" in written
    assert written.count('src="data:image/png;base64,') == written.count("<img") == 1
    assert (tmp_path / "throughput.png").is_file()
