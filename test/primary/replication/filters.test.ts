import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import {
  kindOf,
  parseFilters,
  selectArtifacts,
  selectsRepository,
  type FilteredArtifact,
  type FilterModel,
} from '../../../primary/replication/filters.ts'
import { ApiError } from '../../../shared/api/errors.ts'

interface Artifact extends FilteredArtifact {
  readonly digest: string
}

function artifact(digest: string, given: Partial<FilteredArtifact> = {}): Artifact {
  return { digest, repository: 'library/app', kind: 'image', tags: [], labels: [], ...given }
}

/** Tags in the order in which they were pushed. */
function tagged(...names: readonly string[]) {
  return names.map((name, index) => ({ name, pushedAt: new Date(index) }))
}

/** What is selected, as `digest` or `digest:tag,tag`. */
function select(filters: readonly FilterModel[], artifacts: readonly Artifact[]) {
  return selectArtifacts(parseFilters(filters), artifacts).map(({ digest, tags }) =>
    tags.length === 0 ? digest : `${digest}:${tags.map(({ name }) => name).join()}`,
  )
}

test('no filter selects everything', () => {
  assert.deepEqual(select([], [artifact('a', { tags: tagged('v1') }), artifact('b')]), [
    'a:v1',
    'b',
  ])
})

test('name and name_regex look at the whole of project/repository', () => {
  const repositories = ['library/app', 'library/team/app', 'infra/app']
  const named = (...filters: FilterModel[]) => {
    const parsed = parseFilters(filters)
    const artifacts = repositories.map((repository) => artifact('a', { repository }))
    const selected = selectArtifacts(parsed, artifacts).map(({ repository }) => repository)
    assert.deepEqual(
      selected,
      repositories.filter((repository) => selectsRepository(parsed, repository)),
    )
    return selected
  }
  assert.deepEqual(named({ type: 'name', value: '' }), repositories)
  assert.deepEqual(named({ type: 'name', value: 'app' }), [])
  assert.deepEqual(named({ type: 'name', value: 'library/*' }), ['library/app'])
  assert.deepEqual(named({ type: 'name', value: '{library,infra}/**' }), repositories)
  const regex = { type: 'name_regex', value: '[a-z]+/app' }
  assert.deepEqual(named(regex), ['library/app', 'infra/app'])
  assert.deepEqual(named({ ...regex, decoration: 'excludes' }), ['library/team/app'])
  assert.deepEqual(named(regex, { type: 'name', value: 'infra/*' }), ['infra/app'])
})

test('tag leaves the tags that match, or those that do not, and drops what has none left', () => {
  const artifacts = [
    artifact('a', { tags: tagged('v1', 'v1-dev', 'latest') }),
    artifact('b', { tags: tagged('dev') }),
    artifact('untagged'),
  ]
  const tag = (value: string, decoration?: string) =>
    select([{ type: 'tag', value, ...(decoration !== undefined && { decoration }) }], artifacts)
  assert.deepEqual(tag('v*'), ['a:v1,v1-dev'])
  assert.deepEqual(tag('v*', ''), ['a:v1,v1-dev'])
  assert.deepEqual(tag('v*', 'matches'), ['a:v1,v1-dev'])
  assert.deepEqual(tag('v*', 'excludes'), ['a:latest', 'b:dev', 'untagged'])
  assert.deepEqual(tag('*', 'matches'), ['a:v1,v1-dev,latest', 'b:dev', 'untagged'])
  assert.deepEqual(tag('**', 'excludes'), [])
  assert.deepEqual(tag('', 'excludes'), ['a:v1,v1-dev,latest', 'b:dev', 'untagged'])
  assert.deepEqual(
    select(
      [
        { type: 'tag', value: 'v*' },
        { type: 'tag', value: '*-dev', decoration: 'excludes' },
      ],
      artifacts,
    ),
    ['a:v1'],
  )
})

test('tag_regex and semver look at tags likewise', () => {
  const artifacts = [
    artifact('a', { tags: tagged('v1.2.3', '1.2', 'v2.0.0-rc.1') }),
    artifact('b', { tags: tagged('latest', '2.0.0') }),
    artifact('untagged'),
  ]
  assert.deepEqual(select([{ type: 'tag_regex', value: 'v\\d.*' }], artifacts), [
    'a:v1.2.3,v2.0.0-rc.1',
  ])
  assert.deepEqual(
    select([{ type: 'tag_regex', value: 'v\\d.*', decoration: 'excludes' }], artifacts),
    ['a:1.2', 'b:latest,2.0.0', 'untagged'],
  )
  assert.deepEqual(select([{ type: 'semver', value: '>=1' }], artifacts), ['a:v1.2.3', 'b:2.0.0'])
  assert.deepEqual(select([{ type: 'semver', value: '>=1', decoration: 'excludes' }], artifacts), [
    'a:1.2,v2.0.0-rc.1',
    'b:latest',
    'untagged',
  ])
})

test('label selects what bears all labels, or what does not bear all', () => {
  const artifacts = [
    artifact('both', { labels: ['stable', 'public'] }),
    artifact('one', { labels: ['stable'] }),
    artifact('none'),
  ]
  const label = (value: readonly string[], decoration?: string) =>
    select([{ type: 'label', value, ...(decoration !== undefined && { decoration }) }], artifacts)
  assert.deepEqual(label(['stable']), ['both', 'one'])
  assert.deepEqual(label(['public', 'stable']), ['both'])
  assert.deepEqual(label(['public', 'stable'], 'excludes'), ['one', 'none'])
  assert.deepEqual(label([], 'excludes'), ['both', 'one', 'none'])
})

test('resource selects by what an artifact is, and charts are artifacts', () => {
  const artifacts = ['IMAGE', 'CHART', 'WASM', 'UNKNOWN'].map((type) =>
    artifact(type, { kind: kindOf(type) }),
  )
  const resource = (value: string) => select([{ type: 'resource', value }], artifacts)
  assert.deepEqual(resource('image'), ['IMAGE'])
  assert.deepEqual(resource('chart'), ['CHART'])
  assert.deepEqual(resource('artifact'), ['CHART', 'WASM', 'UNKNOWN'])
})

test('newest leaves each repository the tags that were pushed last, of those that the others leave', () => {
  const at = (name: string, second: number) => ({ name, pushedAt: new Date(second * 1000) })
  const artifacts = [
    artifact('a', { tags: [at('v1', 1), at('v4', 4)] }),
    artifact('b', { tags: [at('v3', 3), at('v2', 2)] }),
    artifact('c', { tags: [at('latest', 9)] }),
    artifact('d', { tags: [at('v1', 1)], repository: 'library/web' }),
    artifact('untagged'),
  ]
  const newest = { type: 'newest', value: 2 }
  assert.deepEqual(select([newest], artifacts), ['a:v4', 'c:latest', 'd:v1'])
  assert.deepEqual(select([newest, { type: 'tag', value: 'v*' }], artifacts), [
    'a:v4',
    'b:v3',
    'd:v1',
  ])
})

test('of tags that were pushed at once newest leaves the first by name, in whatever order they come', () => {
  const tags = ['b', 'a', 'c'].map((name) => ({ name, pushedAt: new Date(0) }))
  const filters = [{ type: 'newest', value: 2 }]
  assert.deepEqual(select(filters, [artifact('x', { tags })]), ['x:b,a'])
  assert.deepEqual(select(filters, [artifact('x', { tags: tags.toReversed() })]), ['x:a,b'])
})

test('platform drops no artifact, and says which children of an index are wanted', () => {
  const filters = [{ type: 'platform', value: ['linux/arm64/v8', 'linux/amd64', 'linux/amd64'] }]
  assert.deepEqual(parseFilters(filters).platforms, ['linux/amd64', 'linux/arm64/v8'])
  assert.deepEqual(parseFilters([]).platforms, [])
  assert.deepEqual(select(filters, [artifact('a')]), ['a'])
})

test('what is given besides is handed back, and what is given is not changed', () => {
  const given = Object.freeze(artifact('a', { tags: Object.freeze(tagged('v1', 'x')) }))
  const [selected] = selectArtifacts(parseFilters([{ type: 'tag', value: 'v*' }]), [given])
  assert.deepEqual(selected, { ...given, tags: tagged('v1') })
})

test('a filter that cannot be read is refused by name', () => {
  const refusals: [FilterModel, RegExp][] = [
    [{ type: 'nam', value: 'x' }, /"nam" is not known: the types are name, name_regex, tag,/],
    [{ type: 'toString', value: 'x' }, /"toString" is not known/],
    [{ type: 'x'.repeat(500) }, /"x{64}…"/],
    [{ type: 'name' }, /"name" cannot be read: its value must be text/],
    [{ type: 'name', value: 'a[' }, /"name" cannot be read: a \[ is never closed.* character 2/],
    [{ type: 'name', value: 'a', decoration: 'excludes' }, /"name" takes no decoration/],
    [{ type: 'name', value: 'a', decoration: 'matches' }, /"name" takes no decoration/],
    [{ type: 'tag', value: 7 }, /"tag" cannot be read: its value must be text/],
    [{ type: 'tag', value: 'a', decoration: 'Excludes' }, /"tag" must have the decoration matches/],
    [{ type: 'name_regex', value: '(' }, /"name_regex" cannot be read: .*missing closing \)/],
    [{ type: 'tag_regex', value: '' }, /"tag_regex" cannot be read: .*is empty/],
    [{ type: 'semver', value: 'latest' }, /"semver" cannot be read: .*must be like/],
    [{ type: 'newest', value: 0 }, /"newest" cannot be read: .*whole number from 1 on/],
    [{ type: 'newest', value: 1.5 }, /"newest" cannot be read/],
    [{ type: 'newest', value: '3' }, /"newest" cannot be read/],
    [{ type: 'newest', value: 3, decoration: 'excludes' }, /"newest" takes no decoration/],
    [{ type: 'label', value: 'stable' }, /"label" cannot be read: .*list of texts/],
    [{ type: 'label', value: [1] }, /"label" cannot be read: .*list of texts/],
    [{ type: 'label', value: Array<string>(101).fill('x') }, /more than 100 entries/],
    [
      { type: 'resource', value: 'images' },
      /"resource" cannot be read: .*image, chart or artifact/,
    ],
    [{ type: 'platform', value: ['linux/amd64', 'amd64'] }, /"platform" cannot be read: entry 2/],
    [{ type: 'platform', value: ['linux/amd64/v3/x'] }, /"platform" cannot be read: entry 1/],
  ]
  for (const [filter, message] of refusals) assertRefused([filter], message)
})

test('a type may be there once for each decoration, and not twice', () => {
  const tag = { type: 'tag', value: 'v*' }
  parseFilters([tag, { ...tag, decoration: 'excludes' }])
  assertRefused([tag, { ...tag, value: 'x' }], /"tag" is there twice/)
  assertRefused([tag, { ...tag, decoration: 'matches' }], /"tag" is there twice/)
  assertRefused(
    [
      { type: 'newest', value: 1 },
      { type: 'newest', value: 2 },
    ],
    /"newest" is there twice/,
  )
})

describe('any artifacts', () => {
  const tagName = fc.constantFrom('v1.0.0', 'v1.1.0', '2.0.0', 'latest', 'dev', 'v1-dev', 'main')
  const tags = fc.uniqueArray(
    fc.record({ name: tagName, pushedAt: fc.date({ noInvalidDate: true }) }),
    { maxLength: 5, selector: ({ name }) => name },
  )
  const artifacts = fc.array(
    fc.record({
      digest: fc.constantFrom('a', 'b', 'c'),
      repository: fc.constantFrom('library/app', 'library/web', 'infra/app'),
      kind: fc.constantFrom('image', 'chart', 'artifact'),
      tags,
      labels: fc.subarray(['stable', 'public']),
    }),
    { maxLength: 8 },
  )
  const pattern = fc.constantFrom('*', 'v*', '*-dev', '{latest,2*}', '[!v]*', 'none')
  const filters = fc.shuffledSubarray<FilterModel>([
    { type: 'name', value: 'library/*' },
    { type: 'name_regex', value: '.*web', decoration: 'excludes' },
    { type: 'tag', value: '{v*,latest}' },
    { type: 'tag', value: '*-dev', decoration: 'excludes' },
    { type: 'tag_regex', value: '.{2,}' },
    { type: 'semver', value: '^1', decoration: 'excludes' },
    { type: 'newest', value: 2 },
    { type: 'label', value: ['stable'] },
    { type: 'resource', value: 'artifact' },
    { type: 'platform', value: ['linux/amd64'] },
  ])

  test('are selected alike in whatever order the filters stand', () => {
    const orders = filters.chain((one) =>
      fc.tuple(
        fc.constant(one),
        fc.shuffledSubarray([...one], { minLength: one.length, maxLength: one.length }),
      ),
    )
    fc.assert(
      fc.property(artifacts, orders, (given, [one, other]) => {
        assert.deepEqual(
          selectArtifacts(parseFilters(one), given),
          selectArtifacts(parseFilters(other), given),
        )
      }),
    )
  })

  test('have each tag matched or excluded by a pattern, and none both', () => {
    fc.assert(
      fc.property(artifacts, pattern, (given, value) => {
        const tagsOf = (decoration: string) =>
          selectArtifacts(parseFilters([{ type: 'tag', value, decoration }]), given).flatMap(
            (one) => one.tags,
          )
        const both = [...tagsOf('matches'), ...tagsOf('excludes')]
        const all = given.flatMap((one) => one.tags)
        assert.equal(both.length, all.length)
        assert.deepEqual(new Set(both), new Set(all))
      }),
    )
  })

  test('are left no more tags in a repository than newest says, and none that is older than one dropped', () => {
    fc.assert(
      fc.property(artifacts, fc.integer({ min: 1, max: 5 }), (given, count) => {
        const selected = selectArtifacts(parseFilters([{ type: 'newest', value: count }]), given)
        const tagsIn = (repository: string, list: readonly FilteredArtifact[]) =>
          list.filter((one) => one.repository === repository).flatMap((one) => one.tags)
        for (const repository of ['library/app', 'library/web', 'infra/app']) {
          const all = tagsIn(repository, given)
          const kept = tagsIn(repository, selected)
          assert.equal(kept.length, Math.min(count, all.length))
          const oldestKept = Math.min(...kept.map(({ pushedAt }) => pushedAt.getTime()))
          for (const tag of all.filter((one) => !kept.includes(one)))
            assert.ok(tag.pushedAt.getTime() <= oldestKept)
        }
      }),
    )
  })
})

function assertRefused(filters: readonly FilterModel[], message: RegExp): void {
  assert.throws(
    () => parseFilters(filters),
    (error) => {
      assert.ok(error instanceof ApiError)
      assert.equal(error.code, 'BAD_REQUEST')
      assert.match(error.message, message)
      return true
    },
  )
}
