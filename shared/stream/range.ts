/** What a `Range` header asks of a body of known size. `start` and `end` are both inclusive, as on the wire. */
export type ByteRange =
  /** Answer 200 with everything: no header, another unit, or not of the grammar. */
  | { readonly kind: 'whole' }
  /** Answer 206 with the bytes `start` to `end`. */
  | { readonly kind: 'part'; readonly start: number; readonly end: number }
  /** Answer 416 with the `Content-Range` of `formatUnsatisfiedRange`. */
  | { readonly kind: 'unsatisfiable' }
  /**
   * Several ranges: answer 200 with everything, or multipart. Never a plain 206 with the first of them:
   * podman takes that for the whole list.
   */
  | { readonly kind: 'multiple' }

/** `Content-Range` of a response: `bytes start-end/size`, both ends inclusive. */
export interface ContentRange {
  readonly start: number
  readonly end: number
  /** Bytes of the complete body; undefined when the sender wrote `*`. */
  readonly size: number | undefined
}

const unitAndSet = /^[ \t]*([a-z]+)=(.*)$/is
const firstToLast = /^(\d+)-(\d*)$/
const suffix = /^-(\d+)$/
const responseForm = /^bytes[ \t]+(\d+)-(\d+)\/(\d+|\*)$/i
const uploadForm = /^(\d+)-(\d+)$/
/** Longer than any safe integer: the value is then simply larger than every size. */
const tooManyDigits = 16

/**
 * Reads a `Range` header against a body of `size` bytes. [RFC 9110 §14.1.2, §14.2]
 * `5-4` and `-0` are unsatisfiable rather than ignored: the conformance suite wants 416. `0-` of an empty
 * body is the whole of it: containerd sends it with every first request.
 */
export function parseRange(header: string | undefined, size: number): ByteRange {
  const [, unit, set] = unitAndSet.exec(header ?? '') ?? []
  if (unit === undefined || set === undefined || unit.toLowerCase() !== 'bytes') return whole
  // A sender may leave list elements empty. [RFC 9110 §5.6.1.2]
  const specs = set
    .split(',')
    .map((spec) => spec.trim())
    .filter((spec) => spec !== '')
  const [only] = specs
  if (only === undefined || !specs.every(isRangeSpec)) return whole
  return specs.length === 1 ? readRangeSpec(only, size) : { kind: 'multiple' }
}

/**
 * Reads the `Content-Range` of a 206.
 * @returns undefined when it is missing or not a satisfied byte range
 */
export function parseContentRange(header: string | undefined): ContentRange | undefined {
  const [, first, last, complete] = responseForm.exec((header ?? '').trim()) ?? []
  if (first === undefined || last === undefined || complete === undefined) return undefined
  const [start, end] = [readPosition(first), readPosition(last)]
  const size = complete === '*' ? undefined : readPosition(complete)
  if (!Number.isSafeInteger(end) || start > end) return undefined
  if (size !== undefined && (!Number.isSafeInteger(size) || end >= size)) return undefined
  return { start, end, size }
}

/**
 * Reads the `Content-Range` of a chunked upload, `start-end` without unit, both inclusive; the
 * `bytes start-end/size` that some clients send instead is accepted. [distribution-spec, Pushing a blob in chunks]
 * @returns undefined when it is of neither form or its end is before its start
 */
export function parseUploadRange(
  header: string,
): { readonly start: number; readonly end: number } | undefined {
  const text = header.trim()
  const [, first, last] = uploadForm.exec(text) ?? []
  if (first === undefined || last === undefined) {
    const range = parseContentRange(text)
    return range && { start: range.start, end: range.end }
  }
  const [start, end] = [readPosition(first), readPosition(last)]
  return Number.isSafeInteger(end) && start <= end ? { start, end } : undefined
}

/** The `Range` header for `start` to `end` inclusive, or to the end of the body. */
export function formatRange(start: number, end?: number): string {
  return `bytes=${start}-${end ?? ''}`
}

/** The `Content-Range` of a 206; `end` inclusive. */
export function formatContentRange(start: number, end: number, size: number): string {
  return `bytes ${start}-${end}/${size}`
}

/** The `Content-Range` of a 416. */
export function formatUnsatisfiedRange(size: number): string {
  return `bytes */${size}`
}

/** The `Range` header of an upload session that holds `held` bytes. `0-0` when it holds none: the spec has no empty form. */
export function formatUploadRange(held: number): string {
  return `0-${Math.max(held - 1, 0)}`
}

const whole: ByteRange = { kind: 'whole' }
const unsatisfiable: ByteRange = { kind: 'unsatisfiable' }

function isRangeSpec(spec: string): boolean {
  return firstToLast.test(spec) || suffix.test(spec)
}

function readRangeSpec(spec: string, size: number): ByteRange {
  const [, lengthText] = suffix.exec(spec) ?? []
  if (lengthText !== undefined) {
    const length = readPosition(lengthText)
    if (length === 0) return unsatisfiable
    return size === 0 ? whole : { kind: 'part', start: Math.max(size - length, 0), end: size - 1 }
  }
  const [, firstText = '', lastText = ''] = firstToLast.exec(spec) ?? []
  const start = readPosition(firstText)
  const last = lastText === '' ? Infinity : readPosition(lastText)
  if (size === 0 && start === 0 && lastText === '') return whole
  if (start >= size || last < start) return unsatisfiable
  return { kind: 'part', start, end: Math.min(last, size - 1) }
}

function readPosition(digits: string): number {
  const significant = digits.replace(/^0+(?=\d)/, '')
  return significant.length >= tooManyDigits ? Infinity : Number(significant)
}
