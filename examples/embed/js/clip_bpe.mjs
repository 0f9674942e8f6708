// CLIP's tokenizer: lower-cased text to the ids that a Stable Diffusion text encoder takes. For browsers and Node.js.

const [START, END] = ["<|startoftext|>", "<|endoftext|>"];
// special tokens in the wrong case (three words then), English contractions, words, digits, runs of anything else
const WORDS = /<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\t-\r\x85\p{Z}\p{L}\p{N}]+/gu;
const apart = (word) =>
  word === START || word === END ? [word.slice(0, 2), word.slice(2, -2), word.slice(-2)] : [word];

/** Each of the 256 bytes as one visible character: itself where it prints, else the next one from U+0100 on. */
function byteCharacters() {
  const prints = (b) => (b > 32 && b < 127) || (b > 160 && b !== 173 && b < 256);
  let next = 256;
  return Array.from({ length: 256 }, (_, b) => String.fromCharCode(prints(b) ? b : next++));
}

export class ClipTokenizer {
  /** The texts of vocab.json and merges.txt, how many ids a row has, and the id that fills it up. */
  constructor(vocabulary, merges, length, pad) {
    const entries = Object.entries(JSON.parse(vocabulary));
    this.ids = new Map(entries);
    const lines = merges.split("\n").filter((line) => line.trim() && !line.startsWith("#version"));
    this.ranks = new Map(lines.map((line, rank) => [line.trim(), rank]));
    const padding = entries.find(([, id]) => id === pad)?.[0]; // one token wherever it occurs, as start and end are
    Object.assign(this, { length, pad, start: this.ids.get(START), end: this.ids.get(END), bytes: byteCharacters() });
    if (this.start === undefined || this.end === undefined || !padding) throw new Error("vocab.json is not CLIP's");
    const escaped = [START, END, padding].map((token) => token.replace(/[|\\{}()[\]^$+*?.]/g, "\\$&"));
    this.special = new RegExp(`(${escaped.join("|")})`, "u");
  }

  /** One row: start, as many tokens as fit, end, padding; and how many tokens did not fit. */
  row(text) {
    const room = this.length - 2;
    const tokens = this.tokens(text);
    const ids = [this.start, ...tokens.slice(0, room), this.end];
    while (ids.length < this.length) ids.push(this.pad);
    return { ids: BigInt64Array.from(ids, BigInt), cut: Math.max(0, tokens.length - room) };
  }

  tokens(text) {
    return text.split(this.special).flatMap((part, i) => (i % 2 ? [this.ids.get(part)] : this.plain(part)));
  }

  plain(text) {
    // letter by letter, as the reference does: a whole string would turn a closing capital sigma into another letter
    const lower = [...text.normalize("NFC")].map((letter) => letter.toLowerCase()).join("");
    const words = (lower.match(WORDS) ?? []).flatMap(apart);
    return words.flatMap((word) => this.merge(word).map((symbol) => this.ids.get(symbol) ?? this.end));
  }

  /** A word's bytes, the pair of lowest rank joined over and over. */
  merge(word) {
    const symbols = Array.from(new TextEncoder().encode(word), (byte) => this.bytes[byte]);
    symbols.push(symbols.pop() + "</w>");
    for (;;) {
      const ranks = symbols.slice(1).map((right, i) => this.ranks.get(`${symbols[i]} ${right}`) ?? Infinity);
      const lowest = Math.min(...ranks); // Infinity where there is no pair left
      if (lowest === Infinity) return symbols;
      const at = ranks.indexOf(lowest);
      symbols.splice(at, 2, symbols[at] + symbols[at + 1]);
    }
  }
}
