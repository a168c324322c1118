import assert from 'node:assert/strict'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { test } from 'node:test'
import fc from 'fast-check'
import { digestOf } from '../../../shared/oci/digest.ts'
import { createVerifier, VerifyError, type Expected } from '../../../shared/stream/verify.ts'

async function pass(chunks: readonly Buffer[], expected: Expected) {
  const out: Buffer[] = []
  let failure: unknown
  await pipeline(Readable.from(chunks), createVerifier(expected), async (source) => {
    for await (const chunk of source) out.push(chunk as Buffer)
  }).catch((error: unknown) => (failure = error))
  return { out: Buffer.concat(out), failure }
}

const chunks = fc.array(fc.uint8Array({ maxLength: 20 }).map((bytes) => Buffer.from(bytes)))

test('right content passes unchanged', () =>
  fc.assert(
    fc.asyncProperty(chunks, fc.constantFrom('sha256', 'sha512'), async (parts, algorithm) => {
      const whole = Buffer.concat(parts)
      const digest = digestOf(whole, algorithm)
      const { out, failure } = await pass(parts, { digest, size: whole.length })
      assert.equal(failure, undefined)
      assert.deepEqual(out, whole)
    }),
  ))

test('wrong content never comes out whole', () =>
  fc.assert(
    fc.asyncProperty(chunks, async (parts) => {
      const whole = Buffer.concat(parts)
      const { out, failure } = await pass(parts, { digest: digestOf(Buffer.from('other')) })
      assert.ok(failure instanceof VerifyError && failure.reason === 'digest')
      assert.ok(out.length < whole.length || whole.length === 0)
    }),
  ))

test('content that is shorter or longer than announced fails, and the longer one at once', async () => {
  const whole = Buffer.from('0123456789')
  const digest = digestOf(whole)
  const short = await pass([whole], { digest, size: 11 })
  assert.ok(short.failure instanceof VerifyError && short.failure.reason === 'size')
  assert.equal(short.out.length, 0)
  const long = await pass([whole, whole, whole], { digest, size: 15 })
  assert.ok(long.failure instanceof VerifyError && long.failure.reason === 'size')
  assert.ok(long.out.length <= 10)
})
