import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createTokenRelay, type PrimaryAnswer } from '../../../edge/access/token-relay.ts'

const login = { authorization: undefined, scopes: [], address: '192.0.2.1', requestId: 'r1' }

function relayTo(answer: Partial<PrimaryAnswer>) {
  return createTokenRelay({
    ask: () => Promise.resolve({ status: 200, headers: {}, body: '', ...answer }),
    edge: { id: 'one', secret: 'secret' },
  })
}

test('an answer that is no token answer says that the primary cannot be asked now', async () => {
  for (const body of ['', '<html>log in to the network</html>', '[]', 'null', '{"token":1}']) {
    await assert.rejects(relayTo({ body }).logIn(login), { code: 'UNAVAILABLE' }, body)
  }
})

test("the primary's refusals are passed on as they are", async () => {
  const cases = [
    [401, 'UNAUTHORIZED'],
    [403, 'DENIED'],
    [429, 'TOOMANYREQUESTS'],
    [500, 'UNAVAILABLE'],
  ] as const
  for (const [status, code] of cases) {
    await assert.rejects(relayTo({ status }).logIn(login), { code }, String(status))
  }
})
