// CLIP's tokenizer in plain C: lower-cased UTF-8 text to the ids that a Stable Diffusion text encoder takes.
//
// It reads merges.txt alone, for ids follow from it: the 256 bytes, the 256 bytes that end a word, one id per merge,
// start, end. Limits: what is a capital, a letter or a space outside ASCII is the C library's word (call
// setlocale(LC_CTYPE, "C.UTF-8") first), such digits count as letters, and accents must be composed: e + U+0301 is not
// the same as U+00E9 here (no NFC).
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <wchar.h>
#include <wctype.h>

typedef struct {
    char* pair;
    int rank;
} ClipMerge;
typedef struct {
    ClipMerge* merges;  // "left right", sorted
    int count;
    char letter[256][3];  // a byte as one visible character: itself where it prints, else the next one from U+0100 on
    int order[256];       // and its id
    char special[3][32];  // start, end, padding: one token each wherever they occur
    int special_id[3];
} Clip;
typedef struct {
    const char* text;
    int length, id;
} ClipSymbol;
typedef struct {
    const Clip* clip;
    int64_t* ids;
    int room, count;
} ClipRow;

static int clip_compare(const void* a, const void* b) {
    return strcmp(((const ClipMerge*)a)->pair, ((const ClipMerge*)b)->pair);
}

// False where merges.txt cannot be read. The id that fills a row up is the end token's or, in Stable Diffusion 2, that
// of "!".
static int clip_load(Clip* clip, const char* merges_txt, int pad) {
    FILE* file = fopen(merges_txt, "r");
    char line[1024];
    int room = 0;
    if (!file) return 0;
    *clip = (Clip){.special = {"<|startoftext|>", "<|endoftext|>", "<|endoftext|>"}};
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\r\n")] = 0;
        if (!line[0] || !strncmp(line, "#version", 8)) continue;
        if (clip->count == room) clip->merges = realloc(clip->merges, (room = 2 * room + 1) * sizeof *clip->merges);
        clip->merges[clip->count] = (ClipMerge){strdup(line), clip->count};
        clip->count++;
    }
    fclose(file);
    qsort(clip->merges, clip->count, sizeof *clip->merges, clip_compare);
    for (int byte = 0, printing = 0, others = 0; byte < 256; byte++) {
        int prints = (byte > 32 && byte < 127) || (byte > 160 && byte != 173), point = prints ? byte : 256 + others;
        clip->order[byte] = prints ? printing++ : 188 + others++;  // 188 bytes print
        if (point < 128) clip->letter[byte][0] = (char)point;
        else clip->letter[byte][0] = (char)(0xC0 | point >> 6), clip->letter[byte][1] = (char)(0x80 | (point & 63));
    }
    for (int i = 0; i < 3; i++) clip->special_id[i] = (int[]){512 + clip->count, 513 + clip->count, pad}[i];
    for (int byte = 0; byte < 128; byte++)
        if (clip->order[byte] == pad) memcpy(clip->special[2], (char[]){(char)byte, 0}, 2);
    return clip->count > 0;
}

static void clip_free(Clip* clip) {
    for (int i = 0; i < clip->count; i++) free(clip->merges[i].pair);
    free(clip->merges);
}

static void clip_put(ClipRow* row, int id) {
    if (row->count < row->room) row->ids[1 + row->count] = id;
    row->count++;
}

static int clip_rank(const Clip* clip, const ClipSymbol* left, const ClipSymbol* right) {
    char pair[1024];
    int length = snprintf(pair, sizeof pair, "%.*s %.*s", left->length, left->text, right->length, right->text);
    if (length >= (int)sizeof pair) return INT32_MAX;  // longer than any merge
    ClipMerge* found = bsearch(&(ClipMerge){pair, 0}, clip->merges, clip->count, sizeof *clip->merges, clip_compare);
    return found ? found->rank : INT32_MAX;
}

// A word's bytes, the pair of lowest rank joined over and over. Joined neighbours stay neighbours in `text`.
static void clip_word(ClipRow* row, const char* word, int length) {
    char* text = malloc(2 * length + 5);
    ClipSymbol* symbols = malloc((length + 1) * sizeof *symbols);
    for (int i = 0, end = 0; i < length; i++) {
        unsigned char byte = (unsigned char)word[i];
        int last = i == length - 1, size = sprintf(text + end, "%s%s", row->clip->letter[byte], last ? "</w>" : "");
        symbols[i] = (ClipSymbol){text + end, size, row->clip->order[byte] + (last ? 256 : 0)};
        end += size;
    }
    for (;;) {
        int lowest = INT32_MAX, at = 0;
        for (int i = 0; i + 1 < length; i++) {
            int rank = clip_rank(row->clip, &symbols[i], &symbols[i + 1]);
            if (rank < lowest) lowest = rank, at = i;
        }
        if (lowest == INT32_MAX) break;
        symbols[at].length += symbols[at + 1].length;
        symbols[at].id = 512 + lowest;
        memmove(&symbols[at + 1], &symbols[at + 2], (--length - at - 1) * sizeof *symbols);
    }
    for (int i = 0; i < length; i++) clip_put(row, symbols[i].id);
    free(symbols);
    free(text);
}

static char clip_kind(wint_t c) {
    if (c < 128 ? c == ' ' || (c > 8 && c < 14) : iswspace(c) || c == 0x85 || c == 0xA0 || c == 0x2007 || c == 0x202F)
        return ' ';
    return c >= '0' && c <= '9' ? '0' : iswalpha(c) ? 'a' : '!';
}

static int clip_special(const Clip* clip, const char* at) {
    for (int i = 0; i < 3; i++)
        if (!strncmp(at, clip->special[i], strlen(clip->special[i]))) return i;
    return -1;
}

// `length` ids: start, as many tokens as fit, end, padding. Returns how many tokens did not fit, or -1 where the text
// is not UTF-8.
static int clip_encode(const Clip* clip, const char* text, int64_t* ids, int length) {
    static const char* const contractions[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    ClipRow row = {clip, ids, length - 2, 0};
    char* word = malloc(4 * strlen(text) + 8);  // lower case may take more bytes
    for (const char* at = text; *at;) {
        int special = clip_special(clip, at), size = 0;
        if (special >= 0) {
            clip_put(&row, clip->special_id[special]);
            at += strlen(clip->special[special]);
            continue;
        }
        for (int i = 0; i < 2 && special < 0; i++)
            if (!strncasecmp(at, clip->special[i], strlen(clip->special[i]))) special = i;
        if (special >= 0) {  // in the wrong case it ends words, and is three of them
            int inner = (int)strlen(clip->special[special]) - 4;
            clip_word(&row, "<|", 2);
            clip_word(&row, clip->special[special] + 2, inner);
            clip_word(&row, "|>", 2);
            at += inner + 4;
            continue;
        }
        for (int i = 0; i < 7 && !size; i++)
            if (!strncasecmp(at, contractions[i], strlen(contractions[i]))) size = (int)strlen(contractions[i]);
        for (int i = 0; i < size; i++) word[i] = (char)(at[i] | 32);  // ' has that bit
        at += size;
        for (char kind = 0; !size || (kind != '0' && kind != ' ' && *at && clip_special(clip, at) < 0);) {
            wchar_t c;
            int bytes = mbtowc(&c, at, 4);
            if (bytes < 1) {
                free(word);
                return -1;
            }
            char here = clip_kind((wint_t)towlower((wint_t)c));
            if (size && here != kind) break;
            kind = here, at += bytes;
            if (kind == ' ') break;
            size += wctomb(word + size, (wchar_t)towlower((wint_t)c));
        }
        if (size) clip_word(&row, word, size);
    }
    free(word);
    ids[0] = clip->special_id[0];
    int kept = row.count < row.room ? row.count : row.room;
    for (int i = kept + 1; i < length; i++) ids[i] = clip->special_id[i == kept + 1 ? 1 : 2];
    return row.count - kept;
}
