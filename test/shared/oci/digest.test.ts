import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  algorithmOf,
  digestOf,
  encodedOf,
  isDigest,
  parseDigest,
} from '../../../shared/oci/digest.ts'

test('a digest of bytes parses, and gives its parts back', () => {
  fc.assert(
    fc.property(fc.uint8Array(), fc.constantFrom('sha256', 'sha512'), (bytes, algorithm) => {
      const digest = digestOf(Buffer.from(bytes), algorithm)
      assert.equal(parseDigest(digest), digest)
      assert.equal(`${algorithmOf(digest)}:${encodedOf(digest)}`, digest)
    }),
  )
})

test('what is not a lower-case sha256 or sha512 digest is refused with DIGEST_INVALID', () => {
  const hex = 'a'.repeat(64)
  for (const text of [
    '',
    'sha256',
    `sha256:${hex.slice(1)}`,
    `sha256:${hex}a`,
    `sha256:${hex.toUpperCase()}`,
    `SHA256:${hex}`,
    `sha512:${hex}`,
    `blake3:${hex}`,
    `sha256:${hex}\n`,
    `sha256:../${hex.slice(3)}`,
  ]) {
    assert.equal(isDigest(text), false, text)
    assert.throws(() => parseDigest(text), { code: 'DIGEST_INVALID', status: 400 })
  }
})

test('a refusal repeats at most the length of a digest', () => {
  assert.throws(
    () => parseDigest('x'.repeat(100_000)),
    (error: { entries: { detail: { digest: string } }[] }) =>
      error.entries[0]?.detail.digest.length === 135,
  )
})
