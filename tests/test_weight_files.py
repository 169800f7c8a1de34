import pytest

from deid_diffusion.weight_files import check_hashes, sha256_of, weights_dir, write_hashes


def folder(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "weights.safetensors").write_bytes(b"numbers")
    (tmp_path / "index.json").write_text("{}")
    write_hashes(tmp_path)
    return tmp_path


def test_an_untouched_folder_passes_and_names_every_file(tmp_path):
    assert set(check_hashes(folder(tmp_path))) == {"unet/weights.safetensors", "index.json"}


@pytest.mark.parametrize("spoil", [lambda p: p.write_bytes(b"other numbers"), lambda p: p.unlink()])
def test_changed_or_missing_weights_are_refused(tmp_path, spoil):
    spoil(folder(tmp_path) / "unet" / "weights.safetensors")
    with pytest.raises(ValueError, match="damaged or were changed"):
        check_hashes(tmp_path)


def test_a_folder_without_sums_is_the_users_own(tmp_path):
    assert check_hashes(tmp_path) == {}


def test_unknown_weights_say_where_they_were_looked_for():
    with pytest.raises(FileNotFoundError, match="looked in .* and "):
        weights_dir("face9000")


def test_the_shipped_weights_are_whole_and_small(weights):
    listed = {name: check_hashes(weights / name) for name in ("face256", "face_estimator")}
    assert all(listed.values())
    size = sum((weights / name / file).stat().st_size for name, files in listed.items() for file in files)
    assert size <= 60e6


def test_hash_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a").startswith("ba7816bf")
