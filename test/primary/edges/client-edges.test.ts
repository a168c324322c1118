import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createClientEdges } from '../../../primary/edges/client-edges.ts'
import { parseClientEdges } from '../../../shared/discovery/client-edges.ts'

const urls = {
  near: 'https://edge-1.example.com',
  upper: 'https://Edge-2.Example.com:8443/',
  elsewhere: 'https://edge-1.example.com.attacker.example',
  path: 'https://edge-3.example.com/v2',
  login: 'https://user:secret@edge-4.example.com',
  lines: 'https://edge-5.example.com\n[host."https://attacker.example"]',
  none: 'edge-6.example.com',
}

/** What is told, and how often the roster was asked. */
function createStand(hosts: readonly string[]) {
  const stand = { now: 0, asked: 0 }
  const edges = Object.entries(urls).map(([edgeId, url]) => ({
    edgeId,
    url,
    site: '',
    region: 'eu',
  }))
  const clientEdges = createClientEdges({
    hosts,
    roster: {
      urls() {
        stand.asked++
        return Promise.resolve(edges)
      },
    },
    now: () => stand.now,
  })
  return { stand, clientEdges }
}

test('an edge is told of where its URL is an origin on a host that was named', async () => {
  const { clientEdges } = createStand(['Edge-*.example.com'])
  const told = await clientEdges.list()
  assert.deepEqual(
    told.map(({ id, url }) => [id, url]),
    [
      ['near', 'https://edge-1.example.com'],
      ['upper', 'https://edge-2.example.com:8443'],
      // What it says is read as a URL, of which only the origin is told.
      ['path', 'https://edge-3.example.com'],
      ['login', 'https://edge-4.example.com'],
    ],
  )
  assert.deepEqual(parseClientEdges(JSON.parse(JSON.stringify({ edges: told }))), told)
})

test('nobody is told of any while no host is named, and the roster is not asked', async () => {
  const { stand, clientEdges } = createStand([])
  assert.deepEqual(await clientEdges.list(), [])
  assert.equal(stand.asked, 0)
})

test('whoever asks often costs the database one question in two seconds', async () => {
  const { stand, clientEdges } = createStand(['*'])
  for (let count = 0; count < 10; count++) await clientEdges.list()
  assert.equal(stand.asked, 1)
  stand.now += 2000
  await clientEdges.list()
  assert.equal(stand.asked, 2)
})

test('what a primary tells is read entry by entry, and strictly', () => {
  const good = { id: 'e1', url: 'https://e1.example.com', site: 'berlin' }
  const edges = [
    good,
    null,
    { id: 'e2', url: 'https://e2.example.com/path' },
    { id: 'e 3', url: 'https://e3.example.com' },
    { id: 'e4', url: 'https://e4.example.com', site: 'a\nb', region: 7 },
  ]
  assert.deepEqual(parseClientEdges({ edges }), [
    { ...good, region: undefined },
    { id: 'e4', url: 'https://e4.example.com', site: undefined, region: undefined },
  ])
  assert.throws(() => parseClientEdges([]), RangeError)
})
