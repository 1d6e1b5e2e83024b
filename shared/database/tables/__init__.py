"""The tables. Each table's docstring names the module that writes it; no other module does.

Times that people read are aware UTC datetimes from the writing process's clock. Times that decide something (leases,
dispatches, heartbeats) are seconds since 1970 by the *database's* clock, so that nodes need not agree on the time.
"""

from shared.database.tables.access import ApiKey as ApiKey
from shared.database.tables.access import AuditEntry as AuditEntry
from shared.database.tables.alerts import Alert as Alert
from shared.database.tables.alerts import AlertDelivery as AlertDelivery
from shared.database.tables.alerts import AlertWatch as AlertWatch
from shared.database.tables.batches import Batch as Batch
from shared.database.tables.cluster import Device as Device
from shared.database.tables.cluster import DeviceFault as DeviceFault
from shared.database.tables.cluster import Installation as Installation
from shared.database.tables.cluster import LoopReport as LoopReport
from shared.database.tables.cluster import Node as Node
from shared.database.tables.cluster import Process as Process
from shared.database.tables.cluster import Tick as Tick
from shared.database.tables.epoch import epoch_at_start as epoch_at_start
from shared.database.tables.epoch import epoch_now as epoch_now
from shared.database.tables.flows import Flow as Flow
from shared.database.tables.flows import FlowNode as FlowNode
from shared.database.tables.gallery import CollectedVideo as CollectedVideo
from shared.database.tables.gallery import Collection as Collection
from shared.database.tables.gallery import Favourite as Favourite
from shared.database.tables.gallery import Video as Video
from shared.database.tables.gallery import VideoLora as VideoLora
from shared.database.tables.insight import Sample as Sample
from shared.database.tables.insight import SampleHour as SampleHour
from shared.database.tables.insight import Snapshot as Snapshot
from shared.database.tables.insight import TierMeasurement as TierMeasurement
from shared.database.tables.jobs import Job as Job
from shared.database.tables.jobs import Use as Use
from shared.database.tables.jobs import UseDay as UseDay
from shared.database.tables.jobs import WebhookMessage as WebhookMessage
from shared.database.tables.loras import StoredLora as StoredLora
from shared.database.tables.models import Blob as Blob
from shared.database.tables.models import ModelVersion as ModelVersion
from shared.database.tables.models import Pin as Pin
from shared.database.tables.models import Replica as Replica
from shared.database.tables.models import ReplicaFile as ReplicaFile
from shared.database.tables.pauses import Pause as Pause
