import assert from 'node:assert/strict'
import { test } from 'node:test'
import { acceptsIndex, essenceOf, mediaTypes } from '../../../shared/oci/media-types.ts'

test('parameters, spaces and case are no part of a media type', () => {
  assert.equal(essenceOf('Application/JSON ; charset=utf-8'), 'application/json')
  assert.equal(essenceOf(undefined), '')
})

test('only a client that names manifests and no index is refused an index', () => {
  assert.equal(acceptsIndex(undefined), true)
  assert.equal(acceptsIndex('*/*'), true)
  assert.equal(acceptsIndex('application/json'), true)
  assert.equal(acceptsIndex(`${mediaTypes.dockerManifest}, application/*;q=0.1`), true)
  assert.equal(acceptsIndex(`${mediaTypes.dockerManifest}, ${mediaTypes.dockerIndex};q=0.2`), true)
  assert.equal(acceptsIndex(mediaTypes.ociManifest), false)
  assert.equal(
    acceptsIndex(
      `${mediaTypes.dockerManifest},application/vnd.docker.distribution.manifest.v1+json`,
    ),
    false,
  )
})
