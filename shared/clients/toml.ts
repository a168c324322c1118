const shortEscapes: Readonly<Record<string, string>> = {
  '"': '\\"',
  '\\': '\\\\',
  '\b': '\\b',
  '\t': '\\t',
  '\n': '\\n',
  '\f': '\\f',
  '\r': '\\r',
}

// eslint-disable-next-line no-control-regex -- control characters are what TOML forbids
const unsafe = /["\\\u0000-\u001f\u007f]/g

/**
 * A TOML basic string with its quotes: usable as a value and as a quoted key. Whatever the text holds, it
 * cannot end the string or the line. A lone surrogate becomes U+FFFD. [TOML 1.0, String]
 */
export function tomlString(text: string): string {
  const escaped = text
    .toWellFormed()
    .replace(unsafe, (character) => shortEscapes[character] ?? unicodeEscape(character))
  return `"${escaped}"`
}

/** A TOML array of strings on one line. */
export function tomlStrings(texts: readonly string[]): string {
  return `[${texts.map(tomlString).join(', ')}]`
}

function unicodeEscape(character: string): string {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`
}
