/** What a far side said, for a terminal: one line, nothing that moves a cursor, not too long. */
export function onOneLine(text: string): string {
  const plain = text.replaceAll(/[\p{C}\s]+/gu, ' ').trim()
  return plain.length > 300 ? `${plain.slice(0, 300)}…` : plain
}
