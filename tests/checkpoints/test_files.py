import hashlib

from mendiff.checkpoints.files import fingerprint, fingerprint_of_files, sha256_of


def test_a_files_hash_is_that_of_its_bytes(tmp_path):
    content = bytes(range(256)) * 10_000
    (tmp_path / "some").write_bytes(content)
    assert sha256_of(tmp_path / "some") == hashlib.sha256(content).hexdigest()
    assert sha256_of(str(tmp_path / "some")) == hashlib.sha256(content).hexdigest()


def test_a_fingerprint_depends_on_what_is_there_and_how_often_but_not_on_the_order():
    assert fingerprint([3, 1, 2]) == fingerprint([1, 2, 3])
    different = [[1, 2, 3], [1, 2], [1, 2, 2, 3], [12, 3], [1, 23], [], [""]]
    assert len({fingerprint(one) for one in different}) == len(different)


def test_files_are_known_by_their_content_alone(tmp_path):
    for name, content in (("a", b"one"), ("b", b"two"), ("c", b"one"), ("d", b"three")):
        (tmp_path / name).write_bytes(content)
    a, b, c, d = (tmp_path / name for name in "abcd")
    assert fingerprint_of_files([a, b]) == fingerprint_of_files([b, c])
    assert fingerprint_of_files([a, b]) != fingerprint_of_files([a, d])
