import assert from 'node:assert/strict'
import { test } from 'node:test'
import { adminPassword, startAdmin } from '../../kit/admin.ts'

const users = '/api/v2.0/users'
const alice = { username: 'alice', email: 'a@x.org', realname: 'Alice', password: 'Abcd1234' }

test('an administrator creates, finds, changes and deletes a user', async (t) => {
  const { asAdmin, call } = await startAdmin(t)
  const created = await asAdmin(users, { method: 'POST', body: alice })
  assert.equal(created.status, 201)
  assert.equal(created.headers.get('location'), '/api/v2.0/users/2')

  const got = await asAdmin(`${users}/2`)
  const { creation_time, update_time, ...user } = got.body as Record<string, unknown>
  assert.match(`${creation_time as string} ${update_time as string}`, /^\d{4}-.*T.*\.\d{3}Z .*Z$/)
  assert.deepEqual(user, {
    user_id: 2,
    username: 'alice',
    email: 'a@x.org',
    realname: 'Alice',
    comment: '',
    sysadmin_flag: false,
    admin_role_in_auth: false,
  })
  const profile = { email: 'b@x.org', realname: 'Alice B', comment: 'hi' }
  assert.equal((await asAdmin(`${users}/2`, { method: 'PUT', body: profile })).status, 200)
  const current = await call(`${users}/current`, { as: 'alice:Abcd1234' })
  assert.equal((current.body as { email: string }).email, 'b@x.org')

  const search = await call(`${users}/search?username=LI`, { as: 'alice:Abcd1234' })
  assert.deepEqual(search.body, [{ user_id: 2, username: 'alice' }])
  assert.equal((await asAdmin(`${users}/2`, { method: 'DELETE' })).status, 200)
  assert.equal((await asAdmin(`${users}/2`)).status, 404)
  assert.equal((await call(`${users}/current`, { as: 'alice:Abcd1234' })).status, 401)
  const again = await asAdmin(users, { method: 'POST', body: alice })
  assert.equal(
    again.headers.get('location'),
    '/api/v2.0/users/3',
    'the name is free, the id is new',
  )
})

test('nothing but the profile can be changed with the profile', async (t) => {
  const { asAdmin, call, records } = await startAdmin(t)
  const as = 'alice:Abcd1234'
  const smuggled = {
    sysadmin: true,
    sysadmin_flag: true,
    username: 'edge$e1',
    password: 'Efgh5678',
    password_hash: '$scrypt$',
    passwordHash: '$scrypt$',
    id: 1,
    user_id: 1,
    deleted_at: '2001-01-01T00:00:00Z',
    deletion_id: '00000000-0000-0000-0000-000000000000',
    updated_at: '2001-01-01T00:00:00Z',
    nonsense: 1,
  }
  const created = await asAdmin(users, { method: 'POST', body: { ...smuggled, ...alice } })
  assert.equal(created.status, 201)
  const read = async () => {
    const { updated_at: _, ...row } = await records
      .selectFrom('users')
      .selectAll()
      .where('id', '=', 2)
      .executeTakeFirstOrThrow()
    return row
  }
  const before = await read()
  assert.equal(before.sysadmin, false)
  const { email, realname } = alice
  for (const [key, value] of Object.entries(smuggled)) {
    const body = { email, realname, [key]: value }
    const answer = await call(`${users}/2`, { method: 'PUT', as, body })
    assert.equal(answer.status, 200, key)
    assert.deepEqual(await read(), before, key)
  }
  const current = await call(`${users}/current`, { as })
  assert.equal(current.status, 200)
  assert.equal((current.body as { sysadmin_flag: boolean }).sysadmin_flag, false)
  assert.equal((await call(users, { as })).status, 403)
})

test('names and addresses are taken once, and what cannot be one is refused', async (t) => {
  const { asAdmin } = await startAdmin(t)
  const statusOf = async (change: Record<string, unknown>) =>
    (await asAdmin(users, { method: 'POST', body: { ...alice, ...change } })).status
  assert.equal(await statusOf({}), 201)
  assert.equal(await statusOf({ email: 'other@x.org' }), 409)
  assert.equal(await statusOf({ username: 'bob', email: 'A@X.org' }), 409)
  const wrong: Record<string, unknown>[] = [
    { username: '' },
    { username: 'a$b' },
    { username: 'robot$x' },
    { username: 'a:b' },
    { username: 'a\u0000b' },
    { username: ' alice' },
    { username: 'x'.repeat(256) },
    { username: 7 },
    { username: null },
    { email: '' },
    { email: 'nobody' },
    { realname: '' },
    { realname: 'a#b' },
    { comment: 'x'.repeat(31) },
    { password: 'short1A' },
    { password: 'abcd1234' },
    { password: `Aa1${'x'.repeat(126)}` },
    { password: undefined },
  ]
  for (const change of wrong) {
    const given = { username: 'bob', email: 'b@x.org', ...change }
    assert.equal(await statusOf(given), 400, JSON.stringify(change))
  }
})

test('a broken body is told which field is wrong', async (t) => {
  const { asAdmin } = await startAdmin(t)
  const post = (body: unknown, headers: Record<string, string> = {}) =>
    asAdmin(users, { method: 'POST', body, headers })
  const typed = await post({ ...alice, username: 7 })
  assert.equal(typed.status, 400)
  assert.match(JSON.stringify(typed.body), /BAD_REQUEST.*username/)
  assert.equal((await post('{"username":')).status, 400)
  assert.equal((await post('[]')).status, 400)
  assert.equal((await post('null')).status, 400)
  assert.equal((await post('a=b', { 'Content-Type': 'text/plain' })).status, 415)
  assert.equal((await post({ ...alice, comment: 'x'.repeat(70_000) })).status, 413)
  assert.equal((await asAdmin(users, { method: 'POST' })).status, 400)
})

test('people change their own password with the old one, and it holds at once', async (t) => {
  const { asAdmin, call } = await startAdmin(t)
  await asAdmin(users, { method: 'POST', body: alice })
  const change = (as: string, body: unknown) =>
    call(`${users}/2/password`, { method: 'PUT', as, body })
  const wrong = { old_password: 'Wrong1234', new_password: 'Efgh5678' }
  assert.equal((await change('alice:Abcd1234', wrong)).status, 403)
  assert.equal((await change('alice:Abcd1234', { new_password: 'Efgh5678' })).status, 403)
  const weak = { old_password: 'Abcd1234', new_password: 'weak' }
  assert.equal((await change('alice:Abcd1234', weak)).status, 400)
  const same = { old_password: 'Abcd1234', new_password: 'Abcd1234' }
  assert.equal((await change('alice:Abcd1234', same)).status, 400)
  const good = { old_password: 'Abcd1234', new_password: 'Efgh5678' }
  assert.equal((await change('alice:Abcd1234', good)).status, 200)
  assert.equal((await call(`${users}/current`, { as: 'alice:Abcd1234' })).status, 401)
  assert.equal((await call(`${users}/current`, { as: 'alice:Efgh5678' })).status, 200)
  const byAdmin = await asAdmin(`${users}/2/password`, {
    method: 'PUT',
    body: { new_password: 'Ijkl9012' },
  })
  assert.equal(byAdmin.status, 200)
  assert.equal((await call(`${users}/current`, { as: 'alice:Ijkl9012' })).status, 200)
})

test('an administrator is made and unmade, but the first one stays and cannot be deleted', async (t) => {
  const { asAdmin, call } = await startAdmin(t)
  await asAdmin(users, { method: 'POST', body: alice })
  const set = (id: number, sysadmin_flag: boolean) =>
    asAdmin(`${users}/${id}/sysadmin`, { method: 'PUT', body: { sysadmin_flag } })
  assert.equal((await call(users, { as: 'alice:Abcd1234' })).status, 403)
  assert.equal((await set(2, true)).status, 200)
  assert.equal((await call(users, { as: 'alice:Abcd1234' })).status, 200)
  assert.equal((await set(2, false)).status, 200)
  assert.equal((await call(users, { as: 'alice:Abcd1234' })).status, 403)
  assert.equal((await set(1, false)).status, 403)
  assert.equal((await set(99, true)).status, 404)
  assert.equal((await asAdmin(`${users}/1`, { method: 'DELETE' })).status, 403)
  const secret = { method: 'PUT', body: { secret: 'Abcd1234' } }
  assert.equal((await asAdmin(`${users}/2/cli_secret`, secret)).status, 412)
})

test('lists are paged, filtered and sorted, and the password is no field', async (t) => {
  const { asAdmin, records } = await startAdmin(t)
  for (const name of ['carol', 'alice', 'bob', 'al%ce']) {
    const body = { ...alice, username: name.replace('%', '_'), email: `${name[2]}@x.org` }
    assert.equal((await asAdmin(users, { method: 'POST', body })).status, 201)
  }
  const names = async (query: string) => {
    const answer = await asAdmin(`${users}?${query}`)
    assert.equal(answer.status, 200, query)
    return (answer.body as { username: string }[]).map(({ username }) => username)
  }
  assert.deepEqual(await names('sort=-username&page_size=2'), ['carol', 'bob'])
  assert.deepEqual(await names('sort=-username&page_size=2&page=2'), ['alice', 'al_ce'])
  assert.deepEqual(await names('sort=username&q=username=~AL'), ['al_ce', 'alice'])
  assert.deepEqual(await names('q=username=~l_c'), ['al_ce'], 'no sign of LIKE is one')
  assert.deepEqual(await names('username=bo'), ['bob'])
  assert.deepEqual(await names('sort=username&q=username={bob%20carol}'), ['bob', 'carol'])
  assert.deepEqual(await names('q=user_id=[2~2]'), ['carol'])
  assert.deepEqual(await names('q=user_id=99999999999'), [], 'a number too large finds nothing')
  assert.deepEqual(await names("q=username=x'%20OR%20'1'='1"), [])
  assert.deepEqual(await names('q=creation_time=[~2001-01-01T00:00:00Z]'), [])
  const first = await asAdmin(`${users}?page_size=2`)
  assert.equal(first.headers.get('x-total-count'), '5')
  assert.equal(first.headers.get('link'), '</api/v2.0/users?page_size=2&page=2>; rel="next"')
  const hash = await records.selectFrom('users').select('password_hash').executeTakeFirstOrThrow()
  const guess = encodeURIComponent((hash.password_hash ?? '').slice(0, 8))
  for (const name of ['password', 'password_hash', 'Password', 'users.password_hash', 'salt']) {
    assert.equal((await asAdmin(`${users}?q=${name}=~${guess}`)).status, 400, name)
    assert.equal((await asAdmin(`${users}?sort=${name}`)).status, 400, name)
  }
  for (const query of ['page_size=101', 'page_size=0', 'page=0', 'page=x', 'page_size=-1']) {
    assert.equal((await asAdmin(`${users}?${query}`)).status, 422, query)
  }
  for (const query of [
    'q=username',
    'q=%00=a',
    'q=username=%00',
    'username=%00',
    'page=1&page=2',
  ]) {
    assert.equal((await asAdmin(`${users}?${query}`)).status, 400, query)
  }
})

test('the caller’s permissions are listed for a project and for the system', async (t) => {
  const { asAdmin, call } = await startAdmin(t)
  await asAdmin(users, { method: 'POST', body: alice })
  await asAdmin('/api/v2.0/projects', { method: 'POST', body: { project_name: 'lib' } })
  await asAdmin('/api/v2.0/projects/lib/members', {
    method: 'POST',
    body: { role_id: 3, member_user: { username: 'alice' } },
  })
  const permissions = async (query: string, as: string) =>
    (await call(`${users}/current/permissions?${query}`, { as })).body as unknown[]
  const relative = await permissions('scope=/project/1&relative=true', 'alice:Abcd1234')
  assert.ok(JSON.stringify(relative).includes('{"resource":"repository","action":"pull"}'))
  assert.ok(!JSON.stringify(relative).includes('push'))
  assert.ok(JSON.stringify(relative).includes('{"resource":"","action":"read"}'))
  const absolute = await permissions('scope=/project/1', 'alice:Abcd1234')
  assert.ok(JSON.stringify(absolute).includes('"/project/1/repository"'))
  assert.ok(JSON.stringify(absolute).includes('{"resource":"/project/1","action":"read"}'))
  // What only roles have is listed too, and what only robots are given, to who may do everything.
  const admin = `admin:${adminPassword}`
  const all = JSON.stringify(await permissions('scope=/project/1', admin))
  assert.ok(all.includes('{"resource":"/project/1/repository","action":"create"}'))
  assert.ok(all.includes('{"resource":"/project/1/metadata","action":"list"}'))
  const system = JSON.stringify(await permissions('scope=/system', admin))
  assert.ok(system.includes('{"resource":"/system/project","action":"create"}'))
  assert.deepEqual(await permissions('scope=/system', 'alice:Abcd1234'), [])
  assert.ok((await permissions('scope=/system', admin)).length > 10)
  assert.deepEqual(await permissions('scope=/project/99', 'alice:Abcd1234'), [])
  assert.deepEqual(await permissions('', 'alice:Abcd1234'), [])
})
