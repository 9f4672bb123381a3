"""Reader of packed YOLOv10 weight files, written from FORMAT.md alone."""
import hashlib
import json
import math
import struct


def read_file(path):
    """The manifest, and the raw bytes of each tensor by name."""
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    manifest = json.loads(header.pop("__metadata__")["yolov10_qat_packed"])
    assert manifest["version"] in (1, 2, 3)
    assert all(t["dtype"] == ("U8" if name.endswith(".codes") else "F32") for name, t in header.items())
    return manifest, {name: data[t["data_offsets"][0]:t["data_offsets"][1]] for name, t in header.items()}


def floats(raw):
    """The float32 values in some bytes, or None for no bytes."""
    return None if raw is None else list(struct.unpack("<%df" % (len(raw) // 4), raw))


def unpack(raw, count, bits):
    """`count` two's complement integers of `bits` bits each, lowest bit first, from a stream that starts at each byte's lowest bit."""
    stream = [byte >> k & 1 for byte in raw for k in range(8)]
    assert len(raw) == (count * bits + 7) // 8 and not any(stream[count * bits:])
    codes = []
    for start in range(0, count * bits, bits):
        value = sum(stream[start + j] << j for j in range(bits))
        codes.append(value - (1 << bits) if stream[start + bits - 1] else value)
    return codes


def scale_of(shape, group_size):
    """For each weight, in the order of the shape, the place of its scale: one an output channel, or, in version 3, one for
    `group_size` input channels in a row at one pixel of the kernel."""
    if group_size is None: return [i // math.prod(shape[1:]) for i in range(math.prod(shape))]
    out, inputs, height, width = shape
    groups = inputs // group_size
    return [((o * groups + i // group_size) * height + y) * width + x
            for o in range(out) for i in range(inputs) for y in range(height) for x in range(width)]


def decode(path):
    """Each layer's codes, shape, bits, scale, weight and bias, by layer name, in network order."""
    manifest, tensors = read_file(path)
    layers = {}
    for layer in manifest["layers"]:
        name, shape, bits = layer["name"], tuple(layer["shape"]), layer["bits"]
        scale, bias, weight = (floats(tensors.get(name + end)) for end in (".scale", ".bias", ".weight"))
        codes = None if bits is None else unpack(tensors[name + ".codes"], math.prod(shape), bits)
        if codes is not None:
            which = scale_of(shape, layer.get("group_size"))
            assert len(scale) == max(which) + 1, name
            products = [code * scale[which[i]] for i, code in enumerate(codes)]
            weight = [struct.unpack("<f", struct.pack("<f", product))[0] for product in products]
        assert len(weight) == math.prod(shape), name
        layers[name] = {"codes": codes, "shape": shape, "bits": bits, "scale": scale, "weight": weight, "bias": bias}
    return layers


def check_digest(path):
    """Whether the stored SHA-256 is that over each tensor's name and then its bytes, by name and without separators;
    in version 2 that over the header without it, a line break and the former's digits."""
    manifest, tensors = read_file(path)
    joined = b"".join(name.encode("utf-8") + tensors[name] for name in sorted(tensors))
    values = hashlib.sha256(joined).hexdigest()
    if manifest["version"] == 1: return values == manifest["digest"]
    bare = json.dumps({k: v for k, v in manifest.items() if k != "digest"}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256((bare + "\n" + values).encode()).hexdigest() == manifest["digest"]
