// A PNG file from 8-bit RGB pixels, without zlib: the data is stored, not compressed.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint8_t* png_u32(uint8_t* to, uint32_t value) {
    for (int i = 0; i < 4; i++) to[i] = (uint8_t)(value >> (24 - 8 * i));
    return to + 4;
}

// Length, name, data, and the CRC-32 of name and data.
static void png_chunk(FILE* file, const char* name, const uint8_t* data, uint32_t length) {
    uint8_t head[8], tail[4];
    uint32_t crc = ~0u;
    memcpy(png_u32(head, length), name, 4);
    for (uint32_t i = 0; i < 4 + length; i++) {
        crc ^= i < 4 ? head[4 + i] : data[i - 4];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    }
    png_u32(tail, ~crc);
    fwrite(head, 1, 8, file);
    fwrite(data, 1, length, file);
    fwrite(tail, 1, 4, file);
}

// False where the file cannot be written.
static int png_write(const char* path, const uint8_t* rgb, uint32_t width, uint32_t height) {
    FILE* file = fopen(path, "wb");
    if (!file) return 0;
    uint8_t header[13] = {0}, *row, *at;
    memcpy(png_u32(png_u32(header, width), height), "\x08\x02", 2);  // 8 bits, RGB
    uint32_t a = 1, b = 0, stride = 3 * width + 1;                   // each row begins with its filter: 0, none
    uint8_t* data = malloc(6 + (size_t)height * (stride + 5));
    memcpy(at = data, "\x78\x01", 2), at += 2;
    for (uint32_t y = 0; y < height; y++, at += stride) {  // a stored block for each row, which holds up to 65535 bytes
        uint8_t block[5] = {y + 1 == height, stride & 255, stride >> 8, ~stride & 255, ~stride >> 8 & 255};
        memcpy(at, block, 5), at += 5;
        row = at, row[0] = 0;
        memcpy(row + 1, rgb + (size_t)y * 3 * width, 3 * width);
        for (uint32_t i = 0; i < stride; i++) a = (a + row[i]) % 65521, b = (b + a) % 65521;
    }
    at = png_u32(at, b << 16 | a);
    fwrite("\x89PNG\r\n\x1a\n", 1, 8, file);
    png_chunk(file, "IHDR", header, sizeof header);
    png_chunk(file, "IDAT", data, (uint32_t)(at - data));
    png_chunk(file, "IEND", data, 0);
    free(data);
    return !(ferror(file) | fclose(file));
}
