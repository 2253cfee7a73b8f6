"""What the report promises."""

from faststate_asgi import Identity
from sample_site.reports import ReportState


def test_signing_puts_the_users_name_under_the_report() -> None:
    report = ReportState()
    report.sign(Identity("ada"))
    assert report.signed_by == "ada"


def test_a_signature_can_be_withdrawn() -> None:
    report = ReportState(signed_by="ada")
    report.withdraw()
    assert report.signed_by == ""
