import assert from 'node:assert/strict'
import type { IncomingMessage } from 'node:http'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  clientOrigin,
  createTrustedProxies,
  clientAddressOf,
} from '../../../shared/http/forwarded.ts'
import { startHttpServer } from '../../kit/http-server.ts'

const proxies = createTrustedProxies(['10.0.0.0/8', '::1', 'fd00::/8', '192.0.2.1'])

function origin(peer: string, headers: Record<string, string> = {}) {
  const request = {
    socket: { remoteAddress: peer },
    headers: { host: 'typed.example', ...headers },
  }
  return clientOrigin(request as unknown as IncomingMessage, proxies)
}

test('a stranger is who connects, whatever it says of itself', () => {
  const claims = {
    'x-forwarded-for': '10.0.0.9',
    'x-forwarded-proto': 'https',
    'x-forwarded-host': 'evil.example',
    forwarded: 'for=10.0.0.9;proto=https;host=evil.example',
  }
  assert.deepEqual(origin('203.0.113.5', claims), {
    address: '203.0.113.5',
    scheme: 'http',
    host: 'typed.example',
  })
})

test("a trusted proxy's word counts, up to the last hop that is not a proxy", () => {
  const cases: readonly (readonly [string, Record<string, string>, string])[] = [
    ['10.0.0.1', { 'x-forwarded-for': '203.0.113.5' }, '203.0.113.5'],
    ['10.0.0.1', { 'x-forwarded-for': '6.6.6.6, 203.0.113.5, 10.1.1.1' }, '203.0.113.5'],
    ['10.0.0.1', { 'x-forwarded-for': '10.2.2.2, 10.1.1.1' }, '10.2.2.2'],
    ['::ffff:10.0.0.1', { 'x-forwarded-for': '203.0.113.5:4711' }, '203.0.113.5'],
    ['::1', { 'x-forwarded-for': '2001:db8::1' }, '2001:db8::1'],
    ['::1', { 'x-forwarded-for': '[2001:db8::1]:80' }, '2001:db8::1'],
    ['fd00::5%eth0', { forwarded: 'for="[2001:db8::1]:80";proto=https' }, '2001:db8::1'],
    ['10.0.0.1', { forwarded: 'for=6.6.6.6, For=203.0.113.5;By=10.0.0.1' }, '203.0.113.5'],
    ['10.0.0.1', { forwarded: 'for=_hidden' }, '10.0.0.1'],
    ['10.0.0.1', { 'x-forwarded-for': 'unknown' }, '10.0.0.1'],
    ['10.0.0.1', { 'x-forwarded-for': '6.6.6.6, junk, 10.1.1.1' }, '10.0.0.1'],
    ['10.0.0.1', {}, '10.0.0.1'],
  ]
  for (const [peer, headers, address] of cases) {
    assert.equal(origin(peer, headers).address, address, JSON.stringify(headers))
  }
})

test('two headers that contradict each other are one too many: neither counts', () => {
  const both = { 'x-forwarded-for': '203.0.113.5', forwarded: 'for=6.6.6.6' }
  assert.equal(origin('10.0.0.1', both).address, '10.0.0.1')
  const same = { 'x-forwarded-for': '203.0.113.5', forwarded: 'for=203.0.113.5' }
  assert.equal(origin('10.0.0.1', same).address, '203.0.113.5')
})

test('scheme and host are those that the proxy was asked by', () => {
  const cases: readonly (readonly [Record<string, string>, string, string])[] = [
    [
      { 'x-forwarded-proto': 'https', 'x-forwarded-host': 'a.example, b.example' },
      'https',
      'a.example',
    ],
    [{ forwarded: 'proto=https;host="a.example:8443"' }, 'https', 'a.example:8443'],
    [{ 'x-forwarded-proto': 'gopher' }, 'http', 'typed.example'],
    [{}, 'http', 'typed.example'],
  ]
  for (const [headers, scheme, host] of cases) {
    const seen = origin('10.0.0.1', headers)
    assert.deepEqual([seen.scheme, seen.host], [scheme, host])
  }
})

test('no header makes it throw, or name an address that is none', () => {
  fc.assert(
    fc.property(fc.string(), fc.string(), (forwarded, customary) => {
      const { address } = origin('10.0.0.1', { forwarded, 'x-forwarded-for': customary })
      assert.match(address, /^[0-9a-f.:]+$/i)
    }),
  )
})

test('a network that is none is refused', () => {
  for (const network of ['nginx', '10.0.0.0/33', '10.0.0.0/', '10.0.0.0/8/8', '::/129', '']) {
    assert.throws(() => createTrustedProxies([network]), TypeError, network)
  }
})

test('a server knows its proxies', async (t) => {
  const routes: NonNullable<Parameters<typeof startHttpServer>[1]['routes']> = (app) => {
    app.get('/', async ({ raw }) => clientAddressOf(raw))
  }
  const headers = { 'X-Forwarded-For': '203.0.113.5' }
  const open = await startHttpServer(t, { routes })
  assert.equal(await (await fetch(open.url, { headers })).text(), '127.0.0.1')
  const behind = await startHttpServer(t, { routes, trustedProxies: ['127.0.0.0/8'] })
  assert.equal(await (await fetch(behind.url, { headers })).text(), '203.0.113.5')
})
