// A PNG file's bytes from 8-bit RGB pixels.
import { crc32, deflateSync } from "node:zlib";

const chunk = (name, data) => {
  const bytes = Buffer.concat([Buffer.alloc(4), Buffer.from(name, "latin1"), data, Buffer.alloc(4)]);
  bytes.writeUInt32BE(data.length, 0);
  bytes.writeUInt32BE(crc32(bytes.subarray(4, -4)), bytes.length - 4);
  return bytes;
};

export function png(rgb, width, height) {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([8, 2], 8); // 8 bits, RGB
  const rows = Array.from({ length: height }, (_, y) => [
    Buffer.of(0),
    rgb.subarray(3 * width * y, 3 * width * (y + 1)),
  ]);
  const data = deflateSync(Buffer.concat(rows.flat()));
  const signature = Buffer.from("\x89PNG\r\n\x1a\n", "latin1");
  return Buffer.concat([signature, chunk("IHDR", header), chunk("IDAT", data), chunk("IEND", Buffer.alloc(0))]);
}
