import assert from 'node:assert/strict'
import { test } from 'node:test'
import { formatErrors, OciError, parseErrors } from '../../../shared/oci/errors.ts'

test("a refusal carries its code's status, and one element for each thing that is wrong", () => {
  const error = new OciError('MANIFEST_BLOB_UNKNOWN', 'push it first', {
    detail: { digest: 'a' },
    more: [{ code: 'MANIFEST_BLOB_UNKNOWN', message: 'b' }],
  })
  assert.equal(error.status, 400)
  assert.deepEqual(
    parseErrors(formatErrors(error.entries)).map(({ message }) => message),
    ['push it first', 'b'],
  )
})

test("a far side's body that is not of the form has no entries", () => {
  for (const body of ['', '<html>', 'null', '[]', '{"errors":{}}', '{"errors":[1,{"code":2}]}'])
    assert.deepEqual(parseErrors(body), [])
})
