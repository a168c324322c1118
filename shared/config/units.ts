/** The unit of a number that people write with its unit. */
export type Unit = 'size' | 'duration' | 'rate'

/** A number of bytes. */
export type Bytes = number
/** A number of milliseconds. */
export type Milliseconds = number
/** A number of bytes in a second. */
export type BytesPerSecond = number

const sizeFactors: Readonly<Record<string, number>> = {
  '': 1,
  b: 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  tb: 1e12,
  k: 2 ** 10,
  m: 2 ** 20,
  g: 2 ** 30,
  t: 2 ** 40,
  kib: 2 ** 10,
  mib: 2 ** 20,
  gib: 2 ** 30,
  tib: 2 ** 40,
}

const durationFactors: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
}

const sizeGrammar = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/i
const durationGrammar = /^(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+$/
const durationPart = /(\d+(?:\.\d+)?)(ms|s|m|h|d)/g

/**
 * Reads a size as people write it: `4096`, `64KiB`, `10 GiB`, `1.5GB`. KiB, MiB, GiB, TiB (or K, M, G, T)
 * are powers of 1024, KB, MB, GB, TB powers of 1000. A number is taken as bytes.
 * @returns whole bytes, or undefined when the text is not a size
 */
export function parseSize(value: string | number): Bytes | undefined {
  if (typeof value === 'number') return wholeNumber(value)
  const match = sizeGrammar.exec(value.trim())
  const factor = sizeFactors[match?.[2]?.toLowerCase() ?? '']
  if (match === null || factor === undefined) return undefined
  return wholeNumber(Math.round(Number(match[1]) * factor))
}

/**
 * Reads a duration: `250ms`, `30s`, `1m30s`, `24h`, `7d`, and `0`. A unit is required, since a bare number
 * would be seconds to some readers and milliseconds to others.
 * @returns whole milliseconds, or undefined when the text is not a duration
 */
export function parseDuration(value: string | number): Milliseconds | undefined {
  const text = String(value).trim()
  if (text === '0') return 0
  if (!durationGrammar.test(text)) return undefined
  let total = 0
  for (const [, amount, unit] of text.matchAll(durationPart)) {
    total += Number(amount) * (durationFactors[unit ?? ''] ?? NaN)
  }
  return wholeNumber(Math.round(total))
}

/** Reads a rate: a size with an optional `/s` behind it, `512B/s`, `1MiB/s`, `0` for none. */
export function parseRate(value: string | number): BytesPerSecond | undefined {
  return parseSize(typeof value === 'number' ? value : value.trim().replace(/\/s$/i, ''))
}

/** The shortest exact spelling in powers of 1024: `8MiB`, `1500B`. */
export function formatSize(bytes: Bytes): string {
  for (const [unit, factor] of [
    ['TiB', 2 ** 40],
    ['GiB', 2 ** 30],
    ['MiB', 2 ** 20],
    ['KiB', 2 ** 10],
  ] as const) {
    if (bytes >= factor && bytes % factor === 0) return `${bytes / factor}${unit}`
  }
  return `${bytes}B`
}

/** The shortest exact spelling: `24h`, `1m30s`, `250ms`. */
export function formatDuration(ms: Milliseconds): string {
  if (ms === 0) return '0s'
  let rest = ms
  let text = ''
  for (const [unit, factor] of [
    ['d', 86_400_000],
    ['h', 3_600_000],
    ['m', 60_000],
    ['s', 1000],
    ['ms', 1],
  ] as const) {
    // A day reads better as 24h, as the documentation of timeouts has it; two days do not.
    if (unit === 'd' && rest < 2 * factor) continue
    const count = Math.floor(rest / factor)
    if (count > 0) text += `${count}${unit}`
    rest -= count * factor
  }
  return text
}

/** `512B/s`. */
export function formatRate(rate: BytesPerSecond): string {
  return `${formatSize(rate)}/s`
}

/** A number with its unit, as the parser of that unit reads it. */
export function formatUnit(unit: Unit, value: number): string {
  if (unit === 'size') return formatSize(value)
  return unit === 'rate' ? formatRate(value) : formatDuration(value)
}

function wholeNumber(value: number): number | undefined {
  return Number.isSafeInteger(value) && value >= 0 ? value : undefined
}
