import { createHash } from 'node:crypto'
import { OciError } from './errors.ts'

declare const digestBrand: unique symbol

/** A validated `algorithm:encoded`; only `parseDigest` and `digestOf` make one. [image-spec, descriptor.md#digests] */
export type Digest = string & { readonly [digestBrand]: true }

/** The algorithms that are accepted. blake3 is registered, and refused until it is implemented. */
export type DigestAlgorithm = 'sha256' | 'sha512'

const accepted = /^(?:sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128})$/
const longest = 'sha512:'.length + 128

/** Whether the text is an accepted digest; upper case is not. */
export function isDigest(text: string): text is Digest {
  return text.length <= longest && accepted.test(text)
}

/** @throws OciError DIGEST_INVALID unless the text is an accepted digest */
export function parseDigest(text: string): Digest {
  if (isDigest(text)) return text
  throw new OciError(
    'DIGEST_INVALID',
    'the digest must be sha256:<64 lower-case hex digits> or sha512:<128 lower-case hex digits>',
    { detail: { digest: text.slice(0, longest) } },
  )
}

/** The algorithm's name: what stands before the colon. */
export function algorithmOf(digest: Digest): DigestAlgorithm {
  return digest.startsWith('sha512:') ? 'sha512' : 'sha256'
}

/** The hex digits: what stands behind the colon. Safe as a file name. */
export function encodedOf(digest: Digest): string {
  return digest.slice(digest.indexOf(':') + 1)
}

/** The digest of bytes held in memory. */
export function digestOf(bytes: Buffer, algorithm: DigestAlgorithm = 'sha256'): Digest {
  return `${algorithm}:${createHash(algorithm).update(bytes).digest('hex')}` as Digest
}

/** The digest whose hex digits a running hash has produced. */
export function digestFromHex(algorithm: DigestAlgorithm, hex: string): Digest {
  return parseDigest(`${algorithm}:${hex}`)
}
