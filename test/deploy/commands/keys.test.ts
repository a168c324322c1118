import assert from 'node:assert/strict'
import { before, test, type TestContext } from 'node:test'
import {
  startAdminApiServer,
  type AdminApiCall,
  type AdminApiReply,
  type AdminApiServer,
} from '../../kit/admin-api-server.ts'
import { runAdminCommand } from '../admin-command.ts'

let api: AdminApiServer

before(async (t) => {
  api = await startAdminApiServer(t as TestContext)
})

function keys(
  t: TestContext,
  args: readonly string[],
  reply: (call: AdminApiCall) => AdminApiReply = () => ({ body: {} }),
) {
  return runAdminCommand(t, api, { args: ['keys', ...args], reply })
}

const key = {
  id: 'a-key',
  purpose: 'log',
  state: 'active',
  fingerprint: 'f'.repeat(64),
  creation_time: '2026-11-01T00:00:00.000Z',
  update_time: '2026-11-01T00:00:00.000Z',
}

test('keys are listed, and a log that is behind is told of', async (t) => {
  const behind = { epoch: 1, seq: 500, shown_by: 'the blob store', since: key.update_time }
  const { code, stdout, stderr } = await keys(t, ['list'], ({ path }) => ({
    body: path.endsWith('/epoch') ? { epoch: 1, seq: 320, behind } : [key],
  }))
  assert.equal(code, 0, stderr)
  assert.match(stdout, /^log +active +2026-11-01T00:00:00.000Z +a-key +f{64}$/m)
  assert.match(stderr, /ends at event 320 of epoch 1, and was once at event 500 of epoch 1/)
  assert.match(stderr, /outport keys accept-epoch/)
})

test('keys are rotated and dropped, and an epoch is accepted', async (t) => {
  const rotated = await keys(t, ['rotate', 'jwt'], () => ({
    body: { ...key, signs_from: '2026-11-01T00:02:00.000Z' },
  }))
  assert.equal(rotated.stdout, 'The new jwt key signs from 2026-11-01T00:02:00.000Z on.\n')
  assert.deepEqual(api.calls[0]?.body, { purpose: 'jwt' })
  const wrong = await keys(t, ['rotate', 'other'])
  assert.equal(wrong.code, 2)
  assert.match(wrong.stderr, /root, log, jwt, edge-ca/)
  const dropped = await keys(t, ['drop', 'a/key'])
  assert.equal(dropped.code, 0, dropped.stderr)
  assert.equal(api.calls[0]?.path, '/api/v2.0/keys/a%2Fkey')
  const accepted = await keys(t, ['accept-epoch', '--force'], () => ({
    body: { epoch: 2, seq: 1 },
  }))
  assert.equal(accepted.stdout, 'The log goes on in epoch 2.\n')
  assert.deepEqual(api.calls[0]?.body, { force: true })
})
