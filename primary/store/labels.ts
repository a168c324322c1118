import { randomUUID } from 'node:crypto'
import type { Transaction } from 'kysely'
import { ApiError } from '../../shared/api/errors.ts'
import type { Page } from '../../shared/api/paging.ts'
import type { Fields, Filter, Sort } from '../../shared/api/query.ts'
import type { Digest } from '../../shared/oci/digest.ts'
import type { EventFact } from '../../shared/replication/events.ts'
import {
  appendAudit,
  type AuditActor,
  type AuditEntry,
  type AuditOperation,
  type Deed,
} from './audit.ts'
import { isUniqueViolation } from './conflicts.ts'
import type { Records } from './database.ts'
import { applyFilters, readPage } from './filters.ts'
import { appendEvents } from './outbox.ts'
import { holdProject } from './projects.ts'
import type { Schema } from './schema.ts'

/** What a label says. */
export interface LabelText {
  readonly name: string
  readonly description: string
  /** `#rrggbb`, or '' for none. */
  readonly color: string
}

/** A label, which artifacts may bear. */
export interface Label extends LabelText {
  readonly id: number
  /** The project whose artifacts may bear it; undefined: those of every project. */
  readonly projectId: number | undefined
  readonly createdAt: Date
  readonly updatedAt: Date
}

export interface LabelListing {
  /** Labels of this project; undefined: the global ones. */
  readonly projectId: number | undefined
  readonly filters: readonly Filter[]
  readonly sorts: readonly Sort[]
  readonly page: Page
}

/** The artifact whose labels change, and where it is. */
export interface LabelBearer {
  readonly artifact: { readonly id: number; readonly digest: Digest }
  readonly repository: {
    readonly id: number
    readonly projectId: number
    readonly name: string
  }
}

/** What labels may be filtered and sorted by. */
export const labelFields: Fields = {
  id: { column: 'l.id', type: 'integer' },
  name: { column: 'l.name', type: 'text' },
  description: { column: 'l.description', type: 'text' },
  color: { column: 'l.color', type: 'text' },
  creation_time: { column: 'l.created_at', type: 'time' },
  update_time: { column: 'l.updated_at', type: 'time' },
}

export type Labels = ReturnType<typeof createLabels>

/**
 * Labels of projects and of the installation. What bears one is bound by ids: a label that is made again under a
 * name, and a manifest that is pushed again, begin with nothing.
 */
export function createLabels(records: Records) {
  const select = () => records.selectFrom('labels as l').where('l.deleted_at', 'is', null)

  /** Runs a change on one locked label and writes the deed and the event with it. */
  const change = (
    id: number,
    deed: Deed & { readonly operation: AuditOperation<'label'> },
    act: (trx: Transaction<Schema>, label: Label) => Promise<LabelChange>,
  ): Promise<boolean> =>
    records.transaction().execute(async (trx) => {
      const row = await trx
        .selectFrom('labels as l')
        .select(labelColumns)
        .where('l.id', '=', id)
        .where('l.deleted_at', 'is', null)
        .forUpdate()
        .executeTakeFirst()
      if (row === undefined) return false
      const label = readLabel(row)
      const { description, fact } = await act(trx, label)
      await appendAudit(trx, labelAudit(label, { ...deed, description }), deed.now)
      await appendEvents(trx, [fact], deed.now)
      return true
    })

  /** Runs a change of an artifact's labels, and writes the deed and the labels that it bears then. */
  const changeBearer = (
    { artifact, repository }: LabelBearer,
    deed: Deed & {
      readonly operation: AuditOperation<'artifact-label'>
      readonly labelId: number
    },
    act: (trx: Transaction<Schema>, label: Label) => Promise<void>,
  ): Promise<void> => {
    const { actor, now, operation, labelId } = deed
    const { projectId } = repository
    return records.transaction().execute(async (trx) => {
      // Before the label, and until the commit: an artifact's events have the order of its changes.
      await holdArtifact(trx, artifact.id)
      const label = await holdLabel(trx, { labelId, projectId })
      await act(trx, label)
      await appendAudit(
        trx,
        {
          actor,
          operation,
          resourceType: 'artifact-label',
          resource: `${repository.name}@${artifact.digest}`,
          projectId,
          description: label.name,
        },
        now,
      )
      const labels = await labelIdsOf(trx, artifact.id)
      const { digest } = artifact
      await appendEvents(
        trx,
        [{ type: 'manifest-labels', projectId, repositoryId: repository.id, digest, labels }],
        now,
      )
    })
  }

  return {
    /** One page of the labels of a project or of the installation, by id, and how many there are. */
    async list({ projectId, filters, sorts, page }: LabelListing): Promise<{
      readonly rows: readonly Label[]
      readonly total: number
    }> {
      const owned =
        projectId === undefined
          ? select().where('l.project_id', 'is', null)
          : select().where('l.project_id', '=', projectId)
      const query = applyFilters(owned, filters)
      const { rows, total } = await readPage(query, {
        sorts,
        page,
        last: { column: 'l.id', descending: false },
        select: (sorted) => sorted.select(labelColumns),
      })
      return { rows: rows.map(readLabel), total }
    },

    async get(id: number): Promise<Label | undefined> {
      const row = await select().select(labelColumns).where('l.id', '=', id).executeTakeFirst()
      return row && readLabel(row)
    },

    /**
     * Creates a label.
     * @returns its id
     * @throws ApiError CONFLICT when the name is taken in that scope, NOT_FOUND when the project is gone
     */
    create(label: LabelText & Pick<Label, 'projectId'>, { actor, now }: Deed): Promise<number> {
      const { projectId, name, description, color } = label
      return records.transaction().execute(async (trx) => {
        if (projectId !== undefined) await holdProject(trx, projectId)
        const inserted = await trx
          .insertInto('labels')
          .values({
            project_id: projectId ?? null,
            name,
            description,
            color,
            created_at: now,
            updated_at: now,
          })
          .onConflict((conflict) => conflict.doNothing())
          .returning('id')
          .executeTakeFirst()
        if (inserted === undefined) throw taken(name)
        const { id } = inserted
        const deed = { actor, operation: 'create', description: '' } as const
        await appendAudit(trx, labelAudit(label, deed), now)
        await appendEvents(trx, [labelFact({ ...label, id })], now)
        return id
      })
    },

    /**
     * Changes what a label says; its project stays.
     * @returns false when there is no such label
     * @throws ApiError CONFLICT when the name is another's in that scope
     */
    async update(id: number, text: LabelText, deed: Deed): Promise<boolean> {
      const { name, description, color } = text
      try {
        return await change(id, { ...deed, operation: 'update' }, async (trx, label) => {
          await trx
            .updateTable('labels')
            .set({ name, description, color, updated_at: deed.now })
            .where('id', '=', id)
            .execute()
          return {
            description: label.name === name ? '' : `renamed to ${name}`,
            fact: labelFact({ ...label, name }),
          }
        })
      } catch (error) {
        if (isUniqueViolation(error)) throw taken(name)
        throw error
      }
    },

    /** Deletes a label, and so takes it off every artifact. Returns false when there is no such label. */
    remove(id: number, deed: Deed): Promise<boolean> {
      return change(id, { ...deed, operation: 'delete' }, async (trx, label) => {
        await trx
          .updateTable('labels')
          .set({ deleted_at: deed.now, deletion_id: randomUUID() })
          .where('id', '=', id)
          .execute()
        return { description: '', fact: labelDeletedFact(label) }
      })
    },

    /**
     * Puts a label on an artifact: one of its own project, or a global one.
     * @throws ApiError NOT_FOUND when there is no such label or artifact, CONFLICT when it bears the label already
     */
    attach(labelId: number, bearer: LabelBearer, deed: Deed): Promise<void> {
      const attaching = { ...deed, operation: 'create', labelId } as const
      return changeBearer(bearer, attaching, async (trx, label) => {
        const inserted = await trx
          .insertInto('artifact_labels')
          .values({ manifest_id: bearer.artifact.id, label_id: labelId, created_at: deed.now })
          .onConflict((conflict) => conflict.doNothing())
          .returning('label_id')
          .executeTakeFirst()
        if (inserted !== undefined) return
        throw new ApiError('CONFLICT', `the artifact bears the label ${label.name} already`)
      })
    },

    /**
     * Takes a label off an artifact.
     * @throws ApiError NOT_FOUND when the artifact is gone or does not bear it
     */
    detach(labelId: number, bearer: LabelBearer, deed: Deed): Promise<void> {
      const detaching = { ...deed, operation: 'delete', labelId } as const
      return changeBearer(bearer, detaching, async (trx, label) => {
        const removed = await trx
          .deleteFrom('artifact_labels')
          .where('manifest_id', '=', bearer.artifact.id)
          .where('label_id', '=', labelId)
          .returning('label_id')
          .executeTakeFirst()
        if (removed !== undefined) return
        throw new ApiError('NOT_FOUND', `the artifact does not bear the label ${label.name}`)
      })
    },
  }
}

/** What a change of a label says in the audit log, and to who follows. */
interface LabelChange {
  readonly description: string
  readonly fact: EventFact
}

/** A label's columns, of `l`. */
export const labelColumns = [
  'l.id',
  'l.project_id as projectId',
  'l.name',
  'l.description',
  'l.color',
  'l.created_at as createdAt',
  'l.updated_at as updatedAt',
] as const

interface LabelRow extends Omit<Label, 'projectId'> {
  readonly projectId: number | null
}

/** A row of `labelColumns` as a label. */
export function readLabel(row: LabelRow): Label {
  const { id, projectId, name, description, color, createdAt, updatedAt } = row
  return {
    id,
    projectId: projectId ?? undefined,
    name,
    description,
    color,
    createdAt,
    updatedAt,
  }
}

async function holdArtifact(trx: Transaction<Schema>, id: number): Promise<void> {
  const row = await trx
    .selectFrom('manifests')
    .select('id')
    .where('id', '=', id)
    .where('deleted_at', 'is', null)
    .forNoKeyUpdate()
    .executeTakeFirst()
  if (row === undefined) throw new ApiError('NOT_FOUND', 'the artifact was deleted meanwhile')
}

/** The label must live on until this commits, or its deletion must be seen. */
async function holdLabel(
  trx: Transaction<Schema>,
  { labelId, projectId }: { readonly labelId: number; readonly projectId: number },
): Promise<Label> {
  const row = await trx
    .selectFrom('labels as l')
    .select(labelColumns)
    .where('l.id', '=', labelId)
    .where('l.deleted_at', 'is', null)
    .where((expression) =>
      expression.or([
        expression('l.project_id', 'is', null),
        expression('l.project_id', '=', projectId),
      ]),
    )
    .forShare()
    .executeTakeFirst()
  if (row !== undefined) return readLabel(row)
  throw new ApiError('NOT_FOUND', 'there is no such label for artifacts of this project')
}

async function labelIdsOf(
  trx: Transaction<Schema>,
  manifestId: number,
): Promise<readonly number[]> {
  const rows = await trx
    .selectFrom('artifact_labels as x')
    .innerJoin('labels as l', 'l.id', 'x.label_id')
    .select('l.id')
    .where('x.manifest_id', '=', manifestId)
    .where('l.deleted_at', 'is', null)
    .orderBy('l.id')
    .execute()
  return rows.map(({ id }) => id)
}

function labelFact(label: Pick<Label, 'id' | 'projectId' | 'name'>): EventFact {
  return { type: 'label', labelId: label.id, name: label.name, ...projectPart(label) }
}

function labelDeletedFact(label: Pick<Label, 'id' | 'projectId'>): EventFact {
  return { type: 'label-deleted', labelId: label.id, ...projectPart(label) }
}

function projectPart({ projectId }: Pick<Label, 'projectId'>): { readonly projectId?: number } {
  return projectId === undefined ? {} : { projectId }
}

function labelAudit(
  { name, projectId }: Pick<Label, 'name' | 'projectId'>,
  deed: {
    readonly actor: AuditActor
    readonly operation: AuditOperation<'label'>
    readonly description: string
  },
): AuditEntry {
  const { actor, operation, description } = deed
  return { actor, operation, resourceType: 'label', resource: name, projectId, description }
}

function taken(name: string): ApiError {
  return new ApiError('CONFLICT', `the label ${name} exists already`)
}
