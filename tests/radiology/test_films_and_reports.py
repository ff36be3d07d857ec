"""Films (one real chest radiograph among them) and reports as files, good and broken."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmpo.errors import Quarantined, UserError
from mmpo.radiology.films import dicom_pixels, film
from mmpo.radiology.reports import RadiologyReport, Rejected, decode_text, read_reports, sections_of

pydicom = pytest.importorskip("pydicom")


def real(name: str) -> bytes:
    from pydicom.data import get_testdata_file

    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip("the package pydicom-data is not installed")
    return Path(path).read_bytes()


def made(values: np.ndarray, **fields: object) -> bytes:
    """A small DICOM file of 16-bit values [rows, columns] (or [frames, rows, columns])."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset("x.dcm", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.PatientName = "Secret^Name"
    dataset.Rows, dataset.Columns = values.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    if values.ndim == 3:
        dataset.NumberOfFrames = values.shape[0]
    dataset.PixelData = values.astype("<u2").tobytes()
    for name, value in fields.items():
        setattr(dataset, name, value)
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


RAMP = np.arange(64 * 64).reshape(64, 64)


def test_a_real_chest_film() -> None:
    """MONOCHROME1: as stored air is bright. It comes out with dark lungs between a bright spine and bright edges."""
    data = real("RG1_UNCR.dcm")
    dataset = pydicom.dcmread(io.BytesIO(data))
    assert dataset.PhotometricInterpretation == "MONOCHROME1"
    grey = dicom_pixels(data)
    assert grey.shape == (1955, 1841) and grey.dtype == np.uint8
    lungs = np.concatenate([grey[500:900, 350:600].ravel(), grey[500:900, 1250:1500].ravel()]).mean()
    spine = grey[500:900, 880:960].mean()
    assert spine > lungs + 30
    stored = dataset.pixel_array[::16, ::16].astype(float).ravel()
    assert np.corrcoef(stored, grey[::16, ::16].astype(float).ravel())[0, 1] < -0.9
    with Image.open(io.BytesIO(film(data))) as picture:
        assert picture.mode == "RGB" and picture.size == (1841, 1955) and not picture.info


def test_window_rescale_and_inversion() -> None:
    plain = dicom_pixels(made(RAMP))
    assert plain[0, 0] == 0 and plain[-1, -1] == 255
    window = dicom_pixels(made(RAMP, WindowCenter=1000, WindowWidth=100))
    assert window[0, 0] == 0 and window[-1, -1] == 255 and window[1000 // 64, 1000 % 64] in range(126, 131)
    assert (window.ravel()[:949] == 0).all() and (window.ravel()[1051:] == 255).all()
    part = dicom_pixels(made(RAMP, WindowCenter=4096, WindowWidth=8192))
    assert part.max() in range(126, 129)  # a window is not stretched to what is in the film
    rescaled = dicom_pixels(made(RAMP, RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=1000, WindowWidth=100))
    assert rescaled[1000 // 64, 1000 % 64] in range(126, 131)
    inverted = dicom_pixels(made(RAMP, PhotometricInterpretation="MONOCHROME1"))
    assert (inverted == 255 - plain).mean() > 0.99
    assert b"Secret" not in film(made(RAMP))


def test_padding_does_not_take_part_in_the_contrast() -> None:
    padded = RAMP % 256 + 1000
    padded[:, :8] = 60_000
    grey = dicom_pixels(made(padded, PixelPaddingValue=60_000))
    assert (grey[:, 8:].min(), grey[:, 8:].max()) == (0, 255) and (grey[:, :8] == 255).all()
    assert dicom_pixels(made(padded))[:, 8:].max() <= 1
    limits = dicom_pixels(made(padded, PixelPaddingValue=65_000, PixelPaddingRangeLimit=59_000))
    assert (limits == grey).all()
    with pytest.raises(Quarantined, match="blank"):
        dicom_pixels(made(np.full((8, 8), 7), PixelPaddingValue=7))


def test_compression_without_a_decoder() -> None:
    """JPEG Lossless needs a package that mmpo doesn't ask for: the file is named as such, not as broken."""
    from pydicom.data import get_testdata_file
    from pydicom.pixels import get_decoder
    from pydicom.uid import JPEGLosslessSV1

    path = get_testdata_file("JPGLosslessP14SV1_1s_1f_8b.dcm", download=False)
    if path is None or get_decoder(JPEGLosslessSV1).is_available:
        pytest.skip("no such file, or a decoder is installed")
    with pytest.raises(Quarantined) as error:
        film(Path(path).read_bytes())
    assert error.value.reason == "no_decoder" and "JPEG Lossless" in str(error.value)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (lambda: made(np.stack([RAMP, RAMP])), "multi_frame"),
        (lambda: made(RAMP)[:-100], "truncated"),
        (lambda: made(RAMP)[:200], "corrupt|no_pixels"),
        (lambda: made(RAMP * 0), "blank"),
        (lambda: made(RAMP, PhotometricInterpretation="PALETTE COLOR"), "unsupported_mode"),
        (lambda: b"\0" * 128 + b"DICM" + b"junk" * 30, "corrupt|no_pixels"),
        (lambda: b"", "empty"),
        (lambda: b"no picture at all", "not_an_image|truncated"),
    ],
)  # fmt: skip
def test_bad_films_are_quarantined(data: object, reason: str) -> None:
    with pytest.raises(Quarantined) as error:
        film(data())  # type: ignore[operator]
    assert error.value.reason in reason.split("|")


def test_sections_in_any_case() -> None:
    text = "FINAL REPORT\n EXAMINATION: CHEST (PA)\n findings :\n Clear.\n Impression:\nNo change.\n\nCOMPARISON: None."
    found = sections_of(text)
    assert found["findings"] == "Clear." and found["impression"] == "No change." and found["comparison"] == "None."
    assert sections_of("Lungs are clear.") == {"findings": "Lungs are clear."}
    assert sections_of(" \n") == {}
    assert sections_of("FINDINGS\nClear lungs.\nIMPRESSION\nNormal.")["impression"] == "Normal."
    assert sections_of("fInDiNgS:\n\niMpReSsIoN: Normal.") == {"impression": "Normal."}


def test_encodings() -> None:
    for data in ("Clear. 3 × 4 cm".encode(), "Clear. 3 × 4 cm".encode("utf-16"), "Clear. 3 × 4 cm".encode("cp1252"),
                 b"\xef\xbb\xbf" + "Clear. 3 × 4 cm".encode()):  # fmt: skip
        assert decode_text(data) == "Clear. 3 × 4 cm"
    assert decode_text(b"a\r\nb\rc") == "a\nb\nc"
    with pytest.raises(Quarantined):
        decode_text(b"\0\1\2\3")


def test_tables(tmp_path: Path) -> None:
    table = tmp_path / "r.csv"
    table.write_bytes(
        b'Study_ID,Findings,Impression,Image,has_prior\n1,Clear.,,a.png,\n2,,,b.png,\n3,"Two\nlines, one.",x,c.png|d.png,TRUE\n'  # noqa: E501
    )
    one, two, three = read_reports(table)
    assert isinstance(one, RadiologyReport) and one.images == ("a.png",) and one.body("findings") == "Clear."
    assert isinstance(two, Rejected) and two.error.reason == "empty_report"
    assert isinstance(three, RadiologyReport) and three.has_prior and three.images == ("c.png", "d.png")
    lines = tmp_path / "r.jsonl"
    rows = [
        {"id": 1, "report": "Findings: Clear."},
        {"id": 1, "report": "x"},
        {"id": 2, "report": 7},
        {"id": 3, "report": "History: cough"},
    ]
    lines.write_text("\n".join(json.dumps(row) for row in rows) + "\n[1]\n{broken\n")
    found = list(read_reports(lines))
    reasons = [one.error.reason for one in found if isinstance(one, Rejected)]
    assert reasons == ["duplicate_id", "not_text", "no_findings", "not_an_object", "not_json"]
    (tmp_path / "no.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="no column of report text"):
        list(read_reports(tmp_path / "no.csv"))
    with pytest.raises(UserError, match="no such"):
        list(read_reports(tmp_path / "none.csv"))


def test_mimic_layout(tmp_path: Path) -> None:
    folder = tmp_path / "files" / "p10" / "p10000032"
    (folder / "s5041").mkdir(parents=True)
    (folder / "s5041.txt").write_text("FINDINGS: Clear.")
    (folder / "s5042.txt").write_bytes(b"\0\0\0")
    (folder / "s5041" / "x.dcm").write_bytes(made(RAMP))
    (folder / "s5043").mkdir()
    (folder / "s5043" / "x.JPG").write_bytes(b"")
    first, second, third = read_reports(tmp_path / "files")
    assert isinstance(first, RadiologyReport) and first.patient == "p10000032" and first.credentialed
    assert first.images == ("p10/p10000032/s5041/x.dcm",) and film(first.images[0], root=first.root)
    assert isinstance(second, Rejected) and second.error.reason == "not_text"
    assert isinstance(third, Rejected) and third.error.reason == "no_report" and third.id.endswith("s5043.txt")
