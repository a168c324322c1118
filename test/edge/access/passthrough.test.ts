import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import { createPassthroughAccess } from '../../../edge/access/passthrough.ts'
import { formatBasic } from '../../../shared/auth/basic.ts'
import { OciError } from '../../../shared/oci/errors.ts'
import { isTag, parseRepositoryName } from '../../../shared/oci/reference.ts'
import { createUpstreamClient } from '../../../shared/upstream/client.ts'
import { createRegistries } from '../../../shared/upstream/registries.ts'
import { waitFor } from '../../kit/clock.ts'
import { addImage, startUpstream } from '../../kit/upstream.ts'

const repository = parseRepositoryName('team/secret')
const tag = 'v1'
assert.ok(isTag(tag))
const path = { kind: 'manifest', repository, reference: { kind: 'tag', tag }, text: tag } as const
const authorization = formatBasic({ username: 'alice', password: 'right' })
const from = { address: '127.0.0.1', requestId: 'r' }

async function startAccess(t: TestContext, { decisionTtlMs = 60_000 } = {}) {
  const rights = { alice: true }
  const upstream = await startUpstream({
    auth: {
      scheme: 'bearer',
      users: { alice: 'right' },
      mayRead: (user) => user === 'alice' && rights.alice,
    },
  })
  t.after(() => upstream.close())
  addImage(upstream, repository)
  const [entry] = createRegistries([{ id: 'up', url: upstream.url }]).entries
  assert.ok(entry)
  const client = createUpstreamClient({ entry })
  t.after(() => client.close())
  const access = createPassthroughAccess({ client, decisions: 10, decisionTtlMs })
  return { access, upstream, rights, target: { entry, repository, path } }
}

function isCode(code: string, challenge?: RegExp) {
  return (error: unknown) =>
    error instanceof OciError &&
    error.code === code &&
    (challenge === undefined || challenge.test(error.headers['WWW-Authenticate'] ?? ''))
}
const isChallenge = isCode('UNAUTHORIZED', /^Basic realm="[^"]+"/)

test('a log-in is good where the upstream takes it', async (t) => {
  const { access } = await startAccess(t)
  await access.ping({ authorization, ...from })
  const wrong = formatBasic({ username: 'alice', password: 'wrong' })
  for (const refused of [undefined, wrong, 'Bearer abc', 'Basic !'])
    await assert.rejects(access.ping({ authorization: refused, ...from }), isChallenge)
})

test('the upstream is asked once for a repository, and not at all for who has no right to ask as another', async (t) => {
  const { access, upstream, target } = await startAccess(t)
  assert.equal(access.known({ authorization }, target), undefined)
  const grants = await Promise.all(
    [1, 2, 3].map(() => access.pull({ authorization, ...from }, target)),
  )
  assert.equal(new Set(grants.map(({ identity }) => identity)).size, 1)
  assert.deepEqual(grants[0]?.credential, { username: 'alice', password: 'right' })
  assert.ok(!JSON.stringify(grants[0]?.identity).includes('right'))
  // One that is challenged, one with the token.
  assert.equal(upstream.delivered(tag).heads, 2)
  assert.ok(access.known({ authorization }, target))
  const other = formatBasic({ username: 'alice', password: 'guess' })
  assert.equal(access.known({ authorization: other }, target), undefined)
  await assert.rejects(
    access.pull({ authorization: other, ...from }, target),
    isCode('MANIFEST_UNKNOWN'),
  )
})

test('who has no log-in is told how to; who may not read, the same as who asks for nothing', async (t) => {
  const { access, target, rights } = await startAccess(t)
  await assert.rejects(access.pull({ authorization: undefined, ...from }, target), isChallenge)
  // Podman, without a log-in.
  await assert.rejects(access.pull({ authorization: 'Basic Og==', ...from }, target), isChallenge)
  const none = 'none'
  assert.ok(isTag(none))
  const nothing = { ...path, reference: { kind: 'tag', tag: none }, text: none } as const
  const answers: unknown[] = []
  const answerTo = async (asked: typeof target.path | typeof nothing) =>
    access
      .pull({ authorization, ...from }, { ...target, path: asked })
      .catch((error: unknown) => answers.push((error as OciError).entries))
  await answerTo(nothing)
  rights.alice = false
  await answerTo(path)
  assert.equal(answers.length, 2)
  assert.deepEqual(answers[0], answers[1])
})

test('a decision does not outlive its time, nor what the upstream says against it', async (t) => {
  const { access, rights, target } = await startAccess(t, { decisionTtlMs: 50 })
  const grant = await access.pull({ authorization, ...from }, target)
  rights.alice = false
  grant.revoke?.()
  assert.equal(access.known({ authorization }, target), undefined)
  await assert.rejects(access.pull({ authorization, ...from }, target), isCode('MANIFEST_UNKNOWN'))
  rights.alice = true
  await access.pull({ authorization, ...from }, target)
  await waitFor('its end', () => access.known({ authorization }, target) === undefined)
})

test('while the upstream is away nobody is let in that it did not let in a moment ago', async (t) => {
  const { access, upstream, target } = await startAccess(t)
  await access.pull({ authorization, ...from }, target)
  await upstream.down()
  await access.pull({ authorization, ...from }, target)
  const other = { ...target, repository: parseRepositoryName('team/other') }
  await assert.rejects(access.pull({ authorization, ...from }, other), isCode('UNAVAILABLE'))
  await assert.rejects(access.ping({ authorization, ...from }), isCode('UNAVAILABLE'))
})
