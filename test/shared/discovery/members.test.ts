import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import fc from 'fast-check'
import { createConsulClient } from '../../../shared/discovery/consul-client.ts'
import {
  parseMembers,
  watchMembers,
  type MembersOptions,
} from '../../../shared/discovery/members.ts'
import { waitFor } from '../../kit/clock.ts'
import { edgeEntry, startFakeConsul } from '../../kit/consul.ts'
import { createRecordingLog } from '../../kit/http-server.ts'

const reasonsOf = (...entries: unknown[]) =>
  parseMembers(entries).refused.map(({ reason }) => reason)

test('an entry as edges make it is a member', () => {
  const { members, refused } = parseMembers([
    edgeEntry('b', { meta: { site: 'berlin', region: 'eu', other: 'kept out' } }),
    edgeEntry('a'),
  ])
  assert.deepEqual(refused, [])
  assert.deepEqual(members, [
    {
      id: 'a',
      url: 'https://a.example.com',
      site: undefined,
      region: undefined,
      version: '1.0.0',
      node: 'node-a',
    },
    {
      id: 'b',
      url: 'https://b.example.com',
      site: 'berlin',
      region: 'eu',
      version: '1.0.0',
      node: 'node-b',
    },
  ])
})

test('what anybody may have written into Consul does not count', () => {
  const meta = (written: Readonly<Record<string, unknown>>) => edgeEntry('a', { meta: written })
  assert.deepEqual(reasonsOf(null, {}, { Node: {}, Service: {} }, meta({ id: 7 })), [
    'malformed',
    'malformed',
    'malformed',
    'malformed',
  ])
  const controls = ['a\nb', '\u0000', 'x\u202ey', '\u200b', '\u2028', '\ud800', '\u007f', '\u0085']
  for (const text of controls) {
    assert.deepEqual(reasonsOf(meta({ url: `https://a.example.com${text}` })), [
      'control-characters',
    ])
    assert.deepEqual(reasonsOf(meta({ other: text })), ['control-characters'])
    assert.deepEqual(reasonsOf(meta({ [`key${text}`]: 'x' })), ['control-characters'])
    assert.deepEqual(reasonsOf(edgeEntry('a', { node: text })), ['control-characters'])
  }
  for (const id of ['', 'A', 'a b', '../a', 'a--b', 'x'.repeat(129)])
    assert.deepEqual(reasonsOf(meta({ id })), ['bad-id'], id)
  const urls = [
    '',
    'a.example.com',
    'ftp://a.example.com',
    'javascript:alert(1)',
    'https://user@a.example.com',
    'https://user:password@a.example.com',
    'https://a.example.com/',
    'https://a.example.com/path',
    'https://a.example.com?query',
    'https://a.example.com#fragment',
    'https://a.example.com:443',
    'https://A.example.com',
    'https:\\\\a.example.com',
    'https://a.example.com" skip_verify = true',
    'https://0x7f.1',
    'https://0.0.0.0',
    'https://[::]:8081',
    `https://${'a'.repeat(600)}`,
  ]
  for (const url of urls) assert.deepEqual(reasonsOf(meta({ url })), ['bad-url'], url)
  assert.deepEqual(reasonsOf(meta({ site: 'a b' })), ['bad-place'])
  assert.deepEqual(reasonsOf(meta({ region: 'x'.repeat(64) })), ['bad-place'])
  assert.deepEqual(reasonsOf(meta({ version: '1 2' })), ['bad-version'])
  assert.throws(() => parseMembers({}), RangeError)
  const many = Array.from({ length: 10_001 }, (_none, index) => edgeEntry(`e${index}`))
  assert.deepEqual(reasonsOf(...many), ['too-many'])
})

test('an edge that is there twice counts if both say the same, and not at all if they do not', () => {
  const same = parseMembers([edgeEntry('a', { node: 'n2' }), edgeEntry('a', { node: 'n1' })])
  assert.deepEqual(
    same.members.map(({ id, node }) => [id, node]),
    [['a', 'n1']],
  )
  const rogue = edgeEntry('a', { meta: { url: 'https://rogue.example.com' } })
  assert.deepEqual(parseMembers([edgeEntry('a'), rogue]), {
    members: [],
    refused: [{ reason: 'ambiguous', id: 'a' }],
  })
})

test('whatever comes as meta, a member has no character that could end a line or a string', () => {
  const text = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.constantFrom('a', 'https://a.example.com', 'https://a.example.com\n', 'a\n'),
  )
  fc.assert(
    fc.property(
      fc.record({ id: text, url: text, site: text, region: text, version: text }),
      (meta) => {
        for (const { id, url, site, region, version } of parseMembers([edgeEntry('a', { meta })])
          .members)
          for (const part of [id, url, site ?? '', region ?? '', version ?? ''])
            assert.match(part, /^[\w.:/+[\]~-]*$/)
      },
    ),
  )
})

async function startWatch(t: TestContext, options: Partial<MembersOptions> = {}) {
  const consul = await startFakeConsul(t)
  const client = await createConsulClient({ url: consul.url })
  const { log, lines } = createRecordingLog()
  let roster: readonly string[] = ['a', 'b']
  let changes = 0
  const members = watchMembers({
    client,
    roster: () => roster,
    log,
    onChange: () => {
      changes++
    },
    ...options,
  })
  t.after(async () => {
    await members.close()
    client.close()
  })
  return {
    consul,
    members,
    lines,
    setRoster: (ids: readonly string[]) => {
      roster = ids
    },
    changes: () => changes,
    ids: () => members.list().map(({ id }) => id),
  }
}

test('the roster admits, at each moment, and Consul only names', async (t) => {
  const { consul, members, ids, setRoster, lines, changes } = await startWatch(t)
  consul.setEntries('outport-edge', [
    edgeEntry('a'),
    edgeEntry('b'),
    edgeEntry('stranger'),
    edgeEntry('other-stranger'),
    edgeEntry('a-rogue', { meta: { site: 'x\ny' } }),
  ])
  await members.ready
  await waitFor('the members', () => ids().length === 2)
  assert.deepEqual(ids(), ['a', 'b'])
  setRoster(['b', 'stranger'])
  assert.deepEqual(ids(), ['b', 'stranger'])
  setRoster([])
  assert.deepEqual(ids(), [])
  const warnings = lines.filter(({ level }) => level === 'warn')
  assert.deepEqual(
    warnings.map(({ reason }) => reason),
    ['control-characters', 'not-in-roster'],
    'one line each kind',
  )
  assert.equal(changes(), 1)
})

test('an edge whose URL the roster knows is there and nowhere else', async (t) => {
  const { consul, members, ids } = await startWatch(t, {
    urlOf: (id) => (id === 'a' ? 'https://moved.example.com' : undefined),
  })
  consul.setEntries('outport-edge', [edgeEntry('a'), edgeEntry('b')])
  await members.ready
  await waitFor('b', () => ids().includes('b'))
  assert.deepEqual(ids(), ['b'])
})

test('members have the distance that the coordinates say', async (t) => {
  const at = (x: number, error = 0.1) => ({
    vec: [x, 0, 0, 0, 0, 0, 0, 0],
    height: 0.001,
    adjustment: 0,
    error,
  })
  const { consul, members } = await startWatch(t, { roster: () => ['a', 'b', 'c'] })
  consul.setCoordinates({ here: at(0), 'node-a': at(0.02), 'node-b': at(0.001, 1.5) })
  consul.setEntries('outport-edge', [edgeEntry('a'), edgeEntry('b'), edgeEntry('c')])
  await members.ready
  const found = members.list()
  const [a, b, c] = found.map(({ estimateMs }) => estimateMs)
  assert.ok(a !== undefined && Math.abs(a - 22) < 1e-9)
  assert.deepEqual([b, c], [undefined, undefined])
})

test('Consul away: what it said last goes on being used', async (t) => {
  const { consul, members, ids, lines } = await startWatch(t)
  consul.setEntries('outport-edge', [edgeEntry('a')])
  await members.ready
  await waitFor('a', () => ids().length === 1)
  consul.break('cut')
  await waitFor('the warning', () => lines.some(({ msg }) => msg.startsWith('Consul does not')))
  assert.deepEqual(ids(), ['a'])
})
