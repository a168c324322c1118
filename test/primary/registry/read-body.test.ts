import assert from 'node:assert/strict'
import { Readable } from 'node:stream'
import { test } from 'node:test'
import { readBody } from '../../../primary/registry/read-body.ts'
import { OciError } from '../../../shared/oci/errors.ts'

test('a body up to the limit is read whole', async () => {
  const body = Readable.from([Buffer.from('ab'), Buffer.from('cd')])
  assert.equal(String(await readBody(body, 4)), 'abcd')
})

test('one byte more is refused with 413, and the stream lives on to be drained', async () => {
  const body = Readable.from([Buffer.from('ab'), Buffer.from('cde'), Buffer.from('f')])
  await assert.rejects(
    readBody(body, 4),
    (error) => error instanceof OciError && error.code === 'SIZE_INVALID' && error.status === 413,
  )
  assert.equal(body.destroyed, false)
  const rest: Buffer[] = []
  for await (const chunk of body) rest.push(chunk as Buffer)
  assert.equal(String(Buffer.concat(rest)), 'f')
})
