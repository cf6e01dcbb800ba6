#!/usr/bin/env python3
"""`cargo metadata` for the notebook kernel, without the packages that no cell can name. Called by bin/cargo.

To find the types of a cell's variables, the kernel has rust-analyzer read the sources of every package in this list: some 240,
whose 140 MB take about a minute of processor time and 3 GB of memory at each start. A cell needs only diffusion-core and the
packages whose types it hands out, which its Cargo.toml lists as `public`. What a reader adds with another `:dep` stays, with all
that it needs. The list does not change what is compiled.
"""
import json
import subprocess
import sys

CORE = "diffusion-core"


def visible(metadata):
    """The ids of the packages that a cell can name, or None if the cells do not depend on diffusion-core."""
    packages = {package["id"]: package for package in metadata["packages"]}
    core = next((package for package in packages.values() if package["name"] == CORE), None)
    if core is None or metadata.get("resolve") is None or "kernel" not in (core["metadata"] or {}):
        return None
    public = core["metadata"]["kernel"]["public"]

    def is_ours(package):
        return package["source"] is None and package["name"].startswith("diffusion-")

    needs = {node["id"]: node["dependencies"] for node in metadata["resolve"]["nodes"]}
    found, waiting = set(), list(metadata["workspace_members"])
    while waiting:
        id = waiting.pop()
        if id in found:
            continue
        found.add(id)
        inside = is_ours(packages[id]) or packages[id]["name"] in public
        waiting += [need for need in needs[id] if not inside or is_ours(packages[need]) or packages[need]["name"] in public]
    return found


def only(metadata, kept):
    nodes = [node for node in metadata["resolve"]["nodes"] if node["id"] in kept]
    for node in nodes:
        node["deps"] = [need for need in node["deps"] if need["pkg"] in kept]
        node["dependencies"] = [id for id in node["dependencies"] if id in kept]
    metadata["packages"] = [package for package in metadata["packages"] if package["id"] in kept]
    metadata["resolve"]["nodes"] = nodes


def main(cargo, arguments):
    done = subprocess.run([cargo, *arguments], stdout=subprocess.PIPE)
    if done.stdout.startswith(b"{"):  # not an error, and not a text for people, as of --help
        metadata = json.loads(done.stdout)
        kept = visible(metadata)
        if kept is not None:
            only(metadata, kept)
            done.stdout = json.dumps(metadata).encode()
    sys.stdout.buffer.write(done.stdout)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
