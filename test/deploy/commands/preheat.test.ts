import assert from 'node:assert/strict'
import { before, describe, test, type TestContext } from 'node:test'
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

function preheat(
  t: TestContext,
  args: readonly string[],
  reply?: (call: AdminApiCall) => AdminApiReply,
) {
  return runAdminCommand(t, api, { args: ['preheat', ...args], reply })
}

const shown = (status: string) => ({
  id: 7,
  image: 'apps/web:v1',
  status,
  bytes: 1000,
  held: 1,
  total: 2,
  edges: [
    { name: 'rack-1', status: 'held', reason: '', held_bytes: 1000 },
    { name: 'rack-2', status: 'missing', reason: 'the edge is suspended', held_bytes: 250 },
  ],
})

/** Runs at the first look, and has ended at the second. */
function ending(status: string) {
  let looks = 0
  return ({ method }: AdminApiCall): AdminApiReply => {
    if (method === 'POST') return { status: 201, body: { id: 7 } }
    return { body: shown(looks++ === 0 ? 'Running' : status) }
  }
}

describe('outport preheat', () => {
  test('asks for what its options say, and waits for the end', async (t) => {
    const args = ['apps/web:v1', '--site', 'berlin-*', '--platform', 'linux/amd64', '--wait']
    const { code, stdout } = await preheat(t, [...args, '--deadline', '10m'], ending('Failed'))
    assert.equal(code, 1)
    assert.equal(
      stdout,
      'preheat 7 of apps/web:v1: Failed, held by 1 of 2 edges\n' +
        '  rack-2: missing (25 % is there): the edge is suspended\n',
    )
    const [begun] = api.calls
    assert.deepEqual(begun?.body, {
      image: 'apps/web:v1',
      edges: { sites: ['berlin-*'] },
      platforms: ['linux/amd64'],
      deadline: '10m',
    })
  })

  test('without --wait says how it stands', async (t) => {
    const { code, stdout } = await preheat(t, ['a/b:c', '--edge', 'rack-1'], ending('Succeed'))
    assert.equal(code, 0)
    assert.match(stdout, /Running/)
    assert.deepEqual(api.calls[0]?.body, { image: 'a/b:c', edges: ['rack-1'] })
  })

  test('wants the edges in one way', async (t) => {
    const { code, stderr } = await preheat(t, ['a/b:c'])
    assert.equal(code, 2)
    assert.match(stderr, /--edge NAME, --site SITE or --group ID/)
  })
})
