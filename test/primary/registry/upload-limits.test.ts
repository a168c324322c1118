import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createUploadGate } from '../../../primary/registry/upload-limits.ts'
import { OciError } from '../../../shared/oci/errors.ts'

const isTooMany = (error: unknown) =>
  error instanceof OciError && error.code === 'TOOMANYREQUESTS' && 'Retry-After' in error.headers

test('one account may not keep all others out, and all together stay under the limit', async () => {
  const gate = createUploadGate({ concurrent: 3, concurrentPerAccount: 2, openPerAccount: 10 })
  const ends: (() => void)[] = []
  const start = (account: string) =>
    gate.run(account, () => new Promise<void>((resolve) => ends.push(resolve)))
  const running = [start('user:1'), start('user:1')]
  await assert.rejects(start('user:1'), isTooMany)
  running.push(start('user:2'))
  await assert.rejects(start('user:3'), isTooMany)
  assert.equal(gate.running(), 3)
  for (const end of ends) end()
  await Promise.all(running)
  assert.equal(gate.running(), 0)
})

test('a request that fails gives its place back', async () => {
  const gate = createUploadGate({ concurrent: 1, concurrentPerAccount: 1, openPerAccount: 10 })
  await assert.rejects(
    gate.run('a', () => Promise.reject(new Error('broken'))),
    /broken/,
  )
  assert.equal(await gate.run('a', async () => 1), 1)
})
