import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { createPeerChoice } from '../../../edge/peers/choice.ts'
import type { PeerClient } from '../../../edge/sources/sources.ts'
import type { Member } from '../../../shared/discovery/members.ts'
import { parseDigest } from '../../../shared/oci/digest.ts'
import { parseRepositoryName } from '../../../shared/oci/reference.ts'
import { SourceError } from '../../../shared/stream/blob-source.ts'
import { createRegistries } from '../../../shared/upstream/registries.ts'

const repository = parseRepositoryName('team/app')
const digest = parseDigest(`sha256:${'0'.repeat(64)}`)
const members = ['a', 'b', 'c', 'd'].map((id) => ({ id }))
const namesOf = (chosen: readonly { readonly id: string }[]) => chosen.map(({ id }) => id).join('')

/** A choice with a clock of its own, and what Consul says of who is healthy. */
function createStand() {
  const stand = { now: 0, healthy: [] as Member[] }
  const choice = createPeerChoice({
    healthy: () => stand.healthy,
    now: () => stand.now,
    random: () => 0,
  })
  const say = (ids: string, estimates: Readonly<Record<string, number>> = {}) => {
    stand.healthy = [...ids].map((id) => ({
      id,
      url: `https://${id}.example.com`,
      site: 'rack',
      region: undefined,
      version: '1',
      node: id,
      estimateMs: estimates[id],
    }))
  }
  return { stand, choice, say }
}

/** A peer that does as it is told. */
function clientOf(work: () => Promise<number>): PeerClient {
  const [entry] = createRegistries([{ id: 'peer', url: new URL('https://peer.example') }]).entries
  assert.ok(entry)
  const opened = { size: 1, offset: 0, read: () => work(), cancel: () => undefined }
  return {
    entry,
    getManifest: () => work().then(() => undefined),
    openBlob: () => ({ name: 'peer', open: () => Promise.resolve(opened) }),
  }
}

const failing = (code: 'unavailable' | 'absent') => () =>
  Promise.reject(new SourceError(code, 'it does not'))

describe('whom of a site to ask', () => {
  test('who was healthy in Consul and is not any more is passed by, and comes back', () => {
    const { stand, choice, say } = createStand()
    assert.equal(namesOf(choice.reachable(members)), 'abcd', 'before Consul said anything')
    say('abc')
    assert.equal(namesOf(choice.reachable(members)), 'abcd', 'd was never in Consul')
    say('bc')
    assert.equal(namesOf(choice.reachable(members)), 'bcd')
    say('abc')
    assert.equal(namesOf(choice.reachable(members)), 'abcd')
    say('bc')
    stand.now += 3_600_001
    assert.equal(namesOf(choice.reachable(members)), 'abcd', 'it may have left Consul alone')
  })

  test('all are asked when Consul says that all are gone', () => {
    const { choice, say } = createStand()
    say('abcd')
    choice.reachable(members)
    say('')
    assert.equal(namesOf(choice.reachable(members)), 'abcd')
  })

  test('the home stays the first, however far; of the next two the nearer one stands in', () => {
    const { choice, say } = createStand()
    say('abcd', { a: 80, b: 40, c: 5, d: 1 })
    choice.reachable(members)
    assert.equal(namesOf(choice.order(members)), 'ac')
    assert.equal(namesOf(choice.order(members.slice(0, 2))), 'ab')
    assert.equal(namesOf(choice.order(members.slice(0, 1))), 'a')
    assert.equal(namesOf(choice.order([])), '')
  })

  test('of two that are as near, the one with less to do stands in', async () => {
    const { choice, say } = createStand()
    say('abcd', { b: 5, c: 5 })
    choice.reachable(members)
    assert.equal(namesOf(choice.order(members)), 'ab')
    const { promise, reject } = Promise.withResolvers<never>()
    const asked = choice
      .watched(
        'b',
        clientOf(() => promise),
      )
      .getManifest(repository, { kind: 'digest', digest })
    assert.equal(namesOf(choice.order(members)), 'ac')
    reject(new SourceError('absent', 'no'))
    await assert.rejects(asked)
    assert.equal(namesOf(choice.order(members)), 'ab')
  })

  test('who keeps failing is left alone for a while; what one does not have is no failure', async () => {
    const { stand, choice } = createStand()
    const ask = async (id: string, code: 'unavailable' | 'absent') => {
      const client = choice.watched(id, clientOf(failing(code)))
      await assert.rejects(client.getManifest(repository, { kind: 'digest', digest }))
    }
    for (let count = 0; count < 5; count++) await ask('a', 'absent')
    assert.equal(namesOf(choice.reachable(members)), 'abcd')
    for (let count = 0; count < 3; count++) await ask('b', 'unavailable')
    assert.equal(namesOf(choice.reachable(members)), 'acd')
    stand.now += 30_000
    assert.equal(namesOf(choice.reachable(members)), 'abcd')
  })

  test('a body that breaks off or stalls counts against its sender, one that ends for it', async () => {
    const { stand, choice } = createStand()
    const open = (id: string, read: () => Promise<number>, signal: AbortSignal) =>
      choice.watched(id, clientOf(read)).openBlob(repository, digest).open({ offset: 0, signal })
    const stalled = new AbortController()
    for (let count = 0; count < 3; count++) {
      const cut = await open('a', failing('unavailable'), new AbortController().signal)
      await assert.rejects(cut.read(Buffer.alloc(1)))
      const waiting = await open('b', failing('absent'), stalled.signal)
      if (count === 2) stalled.abort(new SourceError('unavailable', 'b stalled'))
      const ended = await open('c', () => Promise.resolve(0), new AbortController().signal)
      await ended.read(Buffer.alloc(1))
      ended.cancel()
      if (count === 2) for (let times = 0; times < 3; times++) waiting.cancel()
    }
    assert.equal(namesOf(choice.reachable(members)), 'bcd', 'b was cancelled once for a stall')
    for (let count = 0; count < 2; count++) {
      const again = await open('b', failing('absent'), stalled.signal)
      again.cancel()
    }
    assert.equal(namesOf(choice.reachable(members)), 'cd')
    stand.now += 30_000
    assert.equal(namesOf(choice.reachable(members)), 'abcd')
  })
})
