"""What goes wrong at a bucket of S3: an S3 server on the loopback interface."""

from __future__ import annotations

import pytest

from fuse_index.errors import BundleError, RemoteError
from fuse_index.share import locate, pull, push


def test_a_bucket_that_does_not_exist(s3, bundle):
    with pytest.raises(BundleError, match=r"s3://no-such-bucket-x/b holds no bundle"):
        locate("s3://no-such-bucket-x/b")
    with pytest.raises(RemoteError, match=r"s3://no-such-bucket-x/b has no such bucket"):
        push(bundle, "s3://no-such-bucket-x/b")


def test_no_credentials(s3, bundle, monkeypatch, tmp_path):
    import s3fs

    push(bundle, s3 + "/b")
    s3fs.S3FileSystem.clear_instance_cache()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(RemoteError, match=r"cannot be read: no credentials .*--storage anon=true"):
        locate(s3 + "/b")


def test_no_server(s3, monkeypatch):
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(RemoteError, match=r"cannot be read .*check the network"):
        locate(s3 + "/b", storage_options={"config_kwargs": {"connect_timeout": 2}})


def test_a_bucket_without_permission(s3, s3_server, bundle, tmp_path):
    """The server checks policies from here on, and this user has none."""
    import boto3
    import requests

    push(bundle, s3 + "/b")
    iam = boto3.client("iam")
    iam.create_user(UserName="nobody")
    key = iam.create_access_key(UserName="nobody")["AccessKey"]
    options = {"key": key["AccessKeyId"], "secret": key["SecretAccessKey"]}
    address = f"{s3_server}/moto-api/reset-auth"
    requests.post(address, data="0", timeout=10)
    try:
        with pytest.raises(RemoteError, match=r"cannot be read: permission denied"):
            pull(s3 + "/b", tmp_path / "out", storage_options=options)
        with pytest.raises(RemoteError, match=r"cannot be written: permission denied"):
            push(bundle, s3 + "/other", storage_options=options)
        wrong = {"key": "wrong", "secret": "wrong"}
        with pytest.raises(RemoteError, match=r"cannot be read: permission denied"):
            locate(s3 + "/b", storage_options=wrong)
    finally:
        requests.post(address, data="inf", timeout=10)
